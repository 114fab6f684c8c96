"""The user is told where a digest of an earlier version was compared."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from merging import (
    Checkpoint,
    DistributionVector,
    MismatchError,
    Recipe,
    open_vector,
    preflight,
    prepare,
)
from merging.engine.identities import check_identities
from merging.engine.tasks import tasks
from merging.inputs.statistics import Statistics, StatisticsFacts
from merging.inputs.statistics import write as write_statistics
from merging.outputs.vector_folder import save_vector
from merging.preflight.old_digests import old_inputs, old_vectors
from merging.recipe.parts import ModelEntry


@pytest.fixture
def folders(tmp_path, llama, tuned, write):
    base = llama()
    write(tmp_path / "base", base, {"model_type": "llama"})
    write(tmp_path / "cot", tuned(base, 1), {"model_type": "llama"})
    return tmp_path


def test_a_recipe_is_told_once(folders):
    recipe = Recipe.compose(str(folders / "base"), {"cot": str(folders / "cot")}, {"cot": 1.0})
    digests = {name: Checkpoint(folders / name) for name in ("base", "cot")}
    old = {name: each.sampled_digest for name, each in digests.items()}
    new = {name: each.digest for name, each in digests.items()}
    assert old_inputs(recipe) == old_inputs(replace(recipe, inputs=new)) == []
    (told,) = old_inputs(replace(recipe, inputs={**new, "cot": old["cot"]}))
    assert told.message.startswith("dem.inputs: the digest of cot is of an earlier version")
    assert told in prepare(replace(recipe, inputs={**new, "cot": old["cot"]})).problems


def test_a_saved_vector_of_an_earlier_version_still_knows_its_base(folders, tuned, llama, write):
    base = Checkpoint(folders / "base")
    vector = DistributionVector("cot", base, Checkpoint(folders / "cot"))
    saved = save_vector(vector, folders / "saved")
    assert old_vectors({"saved": open_vector(saved, base)}) == []
    facts = json.loads((saved / "vector.json").read_text())
    (saved / "vector.json").write_text(json.dumps({**facts, "base": base.sampled_digest}))
    (told,) = preflight(folders / "base", [saved]).problems
    assert told.severity == "warning" and told.fix == "Save it again with dem vector."
    assert "names its base by a digest of an earlier version" in told.message
    write(folders / "other", tuned(llama(), 7), {"model_type": "llama"})
    other = [problem.message for problem in preflight(folders / "other", [saved]).problems]
    sampled = Checkpoint(folders / "other").sampled_digest
    assert any(
        f"was saved from a base with digest {base.sampled_digest[:12]}" in each for each in other
    )
    assert any(f"other has {sampled[:12]}…" in each for each in other)


def test_statistics_of_an_earlier_version_still_know_their_model(folders):
    base, cot = (Checkpoint(folders / name) for name in ("base", "cot"))
    facts = StatisticsFacts("fisher", cot.sampled_digest, [], 1, 1, True, 0, 1.0, [], {})
    write_statistics(folders / "f", facts, {"model.norm.weight": torch.ones(7)})
    source = ModelEntry(str(cot.path), "cot", {"weight": 1.0, "statistics": str(folders / "f")})
    recipe = Recipe(str(base.path), (source,), "fisher")
    vectors = {"cot": DistributionVector("cot", base, cot)}
    assert tasks(recipe, base, vectors)
    (told,) = old_inputs(recipe)
    assert told.subject == "cot" and told.fix == "Collect the statistics again."
    whole = Statistics(folders / "f")
    known = replace(recipe, inputs={"statistics of cot": whole.sampled_digest})
    check_identities(known, base, vectors)
    content = hashlib.sha256()  # less than one sample: each is the whole file
    data = (folders / "f").read_bytes()
    content.update(data[: 8 + int.from_bytes(data[:8], "little")])
    content.update(len(data).to_bytes(8, "little") + 64 * data)
    assert whole.sampled_digest == content.hexdigest()
    write_statistics(
        folders / "g", facts._replace(model="0" * 64), {"model.norm.weight": torch.ones(7)}
    )
    wrong = replace(source, parameters={"weight": 1.0, "statistics": str(folders / "g")})
    with pytest.raises(MismatchError, match="on weights with digest 000000000000…, but"):
        tasks(replace(recipe, models=(wrong,)), base, vectors)
