"""A vector saved on its own: the same bits again, its error where it is compressed, and what it does not fit."""

import json
import math
import os
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import (
    Checkpoint,
    CheckpointError,
    DistributionVector,
    ExportError,
    MismatchError,
    Recipe,
    export,
    merge,
    open_recipe,
    open_vector,
    preflight,
    verify,
)
from merging.inputs.saved_vector import SavedVector
from merging.inputs.vector_arithmetic import Combined
from merging.outputs.vector_folder import SAVED_DTYPES, save_vector
from merging.preflight import check
from merging.preflight.differences import compare
from merging.recipe import parse_recipe, recipe_yaml

QUERY = "model.layers.1.self_attn.q_proj"


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float64], ids=str)
def folders(request, tmp_path, llama, tuned, write, adapter):
    base = llama(dtype=request.param)
    config = {"model_type": "llama"}
    write(tmp_path / "base", base, config)
    write(tmp_path / "other", llama(5, dtype=request.param), config)
    write(tmp_path / "cot", tuned(base, 1), config, shards=3)
    adapter(tmp_path / "p3", base, [QUERY])
    return tmp_path


def opened(folders, *names):
    base = Checkpoint(folders / "base")
    return base, *(open_vector(folders / name, base) for name in names)


def saved(folders, name="cot", out="saved", **more):
    base, vector = opened(folders, name)
    save_vector(vector, folders / out, **more)
    return base, vector, open_vector(folders / out, base, name)


@pytest.mark.parametrize("name", ["cot", "p3"])
def test_a_saved_float32_vector_merges_to_the_same_bits(name, folders, recipe, bits, monkeypatch):
    monkeypatch.setattr("merging.outputs.vector_folder.BLOCK", 13)
    base, vector, again = saved(folders, name)
    assert isinstance(again, SavedVector) and (again.name, again.path) == (name, folders / "saved")
    assert (
        set(again) == set(vector) and len(again) == len(vector) and "model.norm.weight" not in again
    ) or name == "cot"
    assert all(bits(again[key], vector[key]) for key in vector)
    assert again.facts.error == 0.0 and not again.foreign_base
    given = recipe({name: 0.7})
    for (key, one), (_, two) in zip(
        merge(given, base, {name: vector}), merge(given, base, {name: again}), strict=True
    ):
        assert bits(one, two), key
    # and once more, from what was saved
    save_vector(again, folders / "twice")
    third = open_vector(folders / "twice", base)
    assert all(bits(third[key], vector[key]) for key in vector)


def test_the_folder_says_what_it_is(folders):
    base, vector, again = saved(folders)
    assert sorted(path.name for path in (folders / "saved").iterdir()) == [
        "MANIFEST.json",
        "README.md",
        "delta.safetensors",
        "vector.json",
    ]
    facts = json.loads((folders / "saved" / "vector.json").read_text())
    assert facts == {
        "name": "cot", "base": base.digest, "tuned": vector.digest, "dtype": "float32", "error": 0.0, "version": "0.1.0",
        "format": 1,
    }  # fmt: skip
    assert again.facts._asdict() == facts
    assert verify(folders / "saved").files.keys() == {
        "README.md",
        "delta.safetensors",
        "vector.json",
    }
    card = (folders / "saved" / "README.md").read_text()
    assert card.startswith("# Δcot: a distribution vector\n") and "make it again" not in card
    assert (
        f"digest `{base.digest[:12]}`; made from weights with digest `{vector.digest[:12]}`" in card
    )
    assert set(load_file(folders / "saved" / "delta.safetensors")) == set(
        base
    )  # the library reads it
    assert again.digest not in (vector.digest, "") and again.identity not in (again.digest, "")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_compressed_vector_names_its_error(dtype, folders):
    _, vector, again = saved(folders, dtype=dtype)
    assert {
        value.dtype for value in load_file(folders / "saved" / "delta.safetensors").values()
    } == {getattr(torch, dtype)}
    whole = torch.cat([vector[name].double().flatten() for name in vector])
    error = torch.cat([again[name].double().flatten() for name in vector]) - whole
    assert again.facts.error == pytest.approx(float(error.norm() / whole.norm()), rel=1e-9)
    assert 0 < again.facts.error < 2**-8
    assert {again[name].dtype for name in vector} == {vector[name].dtype for name in vector}


def test_weights_are_the_base_plus_the_delta(folders):
    _, vector, again = saved(folders, "p3")
    for name in (f"{QUERY}.weight", "model.norm.weight"):
        wanted = vector.weights_block(name, 2, 5)
        assert torch.equal(again.weights_block(name, 2, 5), wanted) and wanted.shape == (3,)
    assert torch.equal(
        again.block(f"{QUERY}.weight", 3, 11), vector.block(f"{QUERY}.weight", 3, 11)
    )
    again.block(f"{QUERY}.weight", 3, 11).zero_()  # its own memory
    again.hold_in_memory()
    shutil.rmtree(folders / "saved")
    first = again.block(f"{QUERY}.weight", 3, 11)
    first.zero_()
    assert torch.equal(again[f"{QUERY}.weight"], vector[f"{QUERY}.weight"])


def test_a_zero_vector_has_no_error(tmp_path, llama, write):
    base = Checkpoint(write(tmp_path / "base", llama()))
    save_vector(open_vector(tmp_path / "base", base), tmp_path / "zero", dtype="float16")
    assert open_vector(tmp_path / "zero", base).facts.error == 0.0


def test_every_tensor_begins_at_a_multiple_of_its_element_size(tmp_path):
    base = {
        "a": torch.ones(3),
        "b": torch.ones(5, dtype=torch.float64),
        "c": torch.ones(2, dtype=torch.bfloat16),
    }
    vector = DistributionVector("v", base, {name: value + 1 for name, value in base.items()})
    again = SavedVector(save_vector(vector, tmp_path / "saved"), base)
    for name in base:
        info = again.stored.info(name)
        assert info.start % info.dtype.itemsize == 0 and info.dtype == vector[name].dtype
        assert torch.equal(again[name], vector[name])


def test_what_a_killed_process_left_is_swept_and_the_folder_is_flushed(folders, monkeypatch):
    _, vector = opened(folders, "cot")
    left = folders / ".saved.staging-999999999-1"
    left.mkdir()
    flushed = []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name),
    )
    save_vector(vector, folders / "saved")
    assert not left.exists()
    staging = flushed[-2]
    assert staging.startswith(".saved.staging-") and flushed == [
        "delta.safetensors", "vector.json", "README.md", "MANIFEST.json", staging, folders.name,
    ]  # fmt: skip


def test_the_digest_is_of_the_deltas_and_not_of_where_they_come_from(tmp_path, llama, tuned):
    base = llama()
    other = tuned(base, 1)
    other["model.norm.weight"][0] += 1
    vectors = [DistributionVector("a", base, weights) for weights in (tuned(base, 1), other)]
    digests = []
    for number, (vector, made_from) in enumerate(zip([*vectors, vectors[0]], "xyz", strict=True)):
        vector.digest = made_from
        save_vector(vector, tmp_path / str(number))
        again = SavedVector(tmp_path / str(number), base)
        assert again.facts.tuned == made_from
        digests.append(again.digest)
    assert digests[0] == digests[2] != digests[1]


def test_progress_is_told_and_may_cancel(folders):
    _, vector = opened(folders, "cot")
    seen = []
    save_vector(vector, folders / "one", progress=lambda *told: seen.append(told))
    assert [told for told in seen if told[0] == "write"][-1][1:] == (
        sum(v.numel() * v.element_size() for v in vector.values()),
    ) * 2
    assert seen[-1][0] == "verify" and seen[-1][1] == seen[-1][2]

    def cancel(stage, done, total):
        raise KeyboardInterrupt

    before = sorted(folders.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        save_vector(vector, folders / "two", progress=cancel)
    assert sorted(folders.rglob("*")) == before


# ------------------------------------------------------------------------------------------------ what is refused


def test_an_unknown_dtype_is_refused(folders):
    _, vector = opened(folders, "cot")
    with pytest.raises(
        ExportError,
        match=r"a vector is saved as float32, bfloat16, float16, not as 'bfloat'; did you mean 'bfloat16'",
    ):
        save_vector(vector, folders / "saved", dtype="bfloat")
    assert SAVED_DTYPES[0] == "float32"


def test_an_existing_folder_is_never_written_into(folders):
    _, vector = opened(folders, "cot")
    with pytest.raises(ExportError, match="exists"):
        save_vector(vector, folders / "base")


def test_a_disk_that_fails_leaves_nothing(folders, monkeypatch):
    _, vector = opened(folders, "cot")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    before = sorted(folders.rglob("*"))
    with pytest.raises(
        ExportError,
        match="saved could not be written: No space left on device. Nothing was left behind",
    ):
        save_vector(vector, folders / "saved")
    assert sorted(folders.rglob("*")) == before


@pytest.mark.parametrize(
    ("value", "dtype", "advice"),
    [
        (70_000.0, "float16", "float16 ends at 65,504: choose float32"),
        (math.nan, "float32", "Look for NaN or infinity"),
    ],
)
def test_deltas_that_are_not_finite_are_refused(value, dtype, advice, tmp_path):
    base = {"w": torch.zeros(3)}
    vector = DistributionVector("a", base, {"w": torch.tensor([0.0, value, 0.0])})
    with pytest.raises(
        ExportError, match=f"a: w has differences that are not finite. {advice}.* Nothing was saved"
    ):
        save_vector(vector, tmp_path / "saved", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"w": (3, 5)}, r"saved .*: the delta of 'w' has shape \[5, 3\], the base has \[3, 5\]"),
        ({"v": (5, 3)}, r"changes 'w', which the base lacks"),
    ],
)
def test_a_base_of_other_tensors_is_refused_by_name(shapes, message, tmp_path):
    base = {"w": torch.zeros(5, 3)}
    save_vector(DistributionVector("a", base, {"w": torch.ones(5, 3)}), tmp_path / "saved")
    with pytest.raises(MismatchError, match=message):
        SavedVector(
            tmp_path / "saved", {name: torch.zeros(shape) for name, shape in shapes.items()}
        )


@pytest.mark.parametrize("side", ["stored", "base"])
def test_integers_are_no_deltas_and_have_none(side, tmp_path):
    base = {"w": torch.zeros(5, 3)}
    save_vector(DistributionVector("a", base, {"w": torch.ones(5, 3)}), tmp_path / "saved")
    if side == "stored":
        save_file(
            {"w": torch.ones(5, 3, dtype=torch.int32)}, tmp_path / "saved" / "delta.safetensors"
        )
    else:
        base = {"w": torch.zeros(5, 3, dtype=torch.int32)}
    with pytest.raises(
        MismatchError,
        match=r"'w' is stored as torch.\w+, the base's tensor as torch.\w+; expected one of float16",
    ):
        SavedVector(tmp_path / "saved", base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"format is 2, this version reads 1. Update"),
        ({"format": True}, r"format is True, expected int"),
        ({"error": "small"}, r"error is 'small', expected float"),
        ({"base": None}, r"base is None, expected str"),
        ({"more": 1}, r"is not what `dem vector` writes: expected the keys name, base, tuned"),
        ([], r"is not what `dem vector` writes"),
    ],
)
def test_facts_that_are_none_are_refused(change, message, tmp_path):
    base = {"w": torch.zeros(5, 3)}
    save_vector(DistributionVector("a", base, {"w": torch.ones(5, 3)}), tmp_path / "saved")
    file = tmp_path / "saved" / "vector.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, **change} if isinstance(change, dict) else change))
    with pytest.raises(CheckpointError, match=message):
        SavedVector(tmp_path / "saved", base)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"vector.json cannot be read"):
        SavedVector(tmp_path / "saved", base)


def test_a_saved_vector_is_never_taken_for_weights(folders):
    saved(folders)
    with pytest.raises(
        CheckpointError,
        match="is a saved distribution vector, expected weights. Add it as a vector",
    ):
        Checkpoint(folders / "saved")


# -------------------------------------------------------------------------------------------- another base, recipes


def test_another_base_of_the_same_shapes_is_allowed_with_a_warning(folders, recipe):
    _, vector, _ = saved(folders)
    found = preflight(folders / "other", [folders / "saved"])
    (problem,) = found.problems
    assert (problem.severity, problem.subject) == ("warning", "saved")
    assert re.search(
        r"was saved from a base with digest [0-9a-f]{12}…; .*other has [0-9a-f]{12}….*added all the same",
        problem.message,
    )
    other, again = found.base, found.vectors["saved"]
    assert again.foreign_base and problem in check(recipe({"saved": 1.0}), other, found.vectors)
    result = dict(merge(recipe({"saved": 1.0}), other, {"saved": again}))
    for name in other:
        working = vector[name].dtype
        assert torch.equal(
            result[name], (other[name].to(working) + vector[name]).to(other[name].dtype)
        )


def test_the_base_it_was_made_on_gives_no_warning(folders):
    base, _, again = saved(folders)
    assert compare(base, again) == [] and not again.foreign_base


def test_a_base_in_memory_is_not_called_another(folders):
    base, _, _ = saved(folders)
    assert not SavedVector(folders / "saved", dict(base)).foreign_base
    held = dict(base)
    save_vector(DistributionVector("a", held, held), folders / "of memory")
    again = SavedVector(folders / "of memory", base)
    assert again.facts.base == "" and not again.foreign_base


def test_a_recipe_names_it_as_it_names_a_checkpoint(folders):
    saved(folders)
    given = Recipe.compose(str(folders / "base"), {"a": str(folders / "saved")}, {"a": 0.5})
    base, vectors = open_recipe(parse_recipe(recipe_yaml(given)))
    assert isinstance(vectors["a"], SavedVector)
    export(given, base, vectors, folders / "out")
    straight = Recipe.compose(str(folders / "base"), {"a": str(folders / "cot")}, {"a": 0.5})
    export(straight, *open_recipe(straight), folders / "straight")

    def weights(out):
        raw = (out / "model.safetensors").read_bytes()
        return raw[8 + struct.unpack("<Q", raw[:8])[0] :]

    assert weights(folders / "out") == weights(folders / "straight")


def test_an_analogy_is_saved_and_read_back(folders, bits):
    base, whole, lora = opened(folders, "cot", "p3")
    analogy = Combined("d", [(1.0, whole), (-1.0, lora)])
    save_vector(analogy, folders / "saved")
    again = open_vector(folders / "saved", base)
    assert (again.facts.name, again.facts.tuned) == ("d", analogy.digest)
    assert all(bits(again[name], analogy[name]) for name in analogy)
