"""Everything in the base's folder that belongs to a copy of the model is in the export, and no more."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import (
    Checkpoint,
    ExportError,
    Recipe,
    export,
    open_recipe,
    open_vector,
    preflight,
    verify,
)
from merging.outputs.adapter_extract import extract
from merging.outputs.side_files import left_out_note, side_files, write_side_files
from merging.outputs.staging import copy_file
from merging.recipe import parse_recipe
from plumbing.inside_folder import open_inside

DENSE = {"linear.weight": (5, 7), "linear.bias": (5,)}


@pytest.fixture
def merged(tmp_path, llama, tuned, write):
    """A function that exports 0.5·Δa + 0.25·Δb of the folder `base`, changed by `prepare`."""

    def make(prepare=lambda folder: None, recipe=None, **more):
        weights = llama()
        base = write(tmp_path / "base", weights, {"model_type": "llama", "dtype": "float32"})
        models = {name: tmp_path / name for name in "ab"}
        for number, folder in enumerate(models.values(), 1):
            write(folder, tuned(weights, number), {"model_type": "llama"})
        prepare(base)
        recipe = recipe or Recipe.compose(base, models, {"a": 0.5, "b": 0.25})
        out = export(recipe, *open_recipe(recipe), tmp_path / "out", **more)
        verify(out)
        return out

    return make


def add_dense(folder, seed=0, values=None):
    """Makes a folder a model of sentence-transformers with a dense layer."""
    random = torch.Generator().manual_seed(seed)
    values = values or {name: torch.randn(shape, generator=random) for name, shape in DENSE.items()}
    (folder / "2_Dense").mkdir()
    (folder / "1_Pooling").mkdir()
    save_file(values, folder / "2_Dense" / "model.safetensors", {"format": "pt"})
    (folder / "2_Dense" / "config.json").write_text('{"in_features": 7}')
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return values


def test_the_files_of_a_marian_model_come_along_into_the_manifest(merged):
    names = ["source.spm", "target.spm", "vocab.json", "figures/a b.png", "größe/x.v3"]

    def prepare(folder):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(name.encode())

    out = merged(prepare)
    assert {name: (out / name).read_bytes().decode() for name in names} == {
        name: name for name in names
    }
    assert set(names) < verify(out).files.keys()
    (out / "größe" / "x.v3").write_bytes(b"other")
    with pytest.raises(ExportError, match="größe/x.v3 has 5 bytes"):
        verify(out)


def test_weights_of_modules_are_merged_by_the_same_recipe(merged, tmp_path):
    """Oracle: the formula, in float64, on the tensors as the library reads them."""
    base, *others = (
        {name: torch.randn(shape, generator=random) for name, shape in DENSE.items()}
        for random in (torch.Generator().manual_seed(seed) for seed in (7, 8, 9))
    )

    def prepare(folder):
        for name, values in zip(("base", "a", "b"), (base, *others), strict=True):
            add_dense(folder.parent / name, values=values)

    out = merged(prepare, shard_bytes=2000)
    assert (out / "model.safetensors.index.json").exists()  # the module is in one file all the same
    written = load_file(out / "2_Dense" / "model.safetensors")
    for name in DENSE:
        theta, a, b = (values[name].double() for values in (base, *others))
        torch.testing.assert_close(
            written[name].double(),
            theta + 0.5 * (a - theta) + 0.25 * (b - theta),
            atol=1e-6,
            rtol=0,
        )
    assert json.loads((out / "2_Dense" / "config.json").read_text()) == {"in_features": 7}
    assert (out / "1_Pooling" / "config.json").exists() and (out / "modules.json").exists()
    assert set(Checkpoint(out)) == set(Checkpoint(tmp_path / "base"))


def test_filters_and_rules_see_the_modules_folder(merged, tmp_path, bits):
    values = {}

    def prepare(folder):
        for seed, name in enumerate(("base", "a", "b")):
            values[name] = add_dense(folder.parent / name, seed)

    rule = f"""
merge_method: task_arithmetic
base_model: {tmp_path}/base
models:
  - model: {tmp_path}/a
    parameters: {{weight: [{{filter: 2_Dense, value: 1.0}}, {{value: 0.5}}]}}
dem: {{exclude: [linear.bias]}}
"""
    out = merged(prepare, parse_recipe(rule))
    written = load_file(out / "2_Dense" / "model.safetensors")
    torch.testing.assert_close(written["linear.weight"], values["a"]["linear.weight"])
    assert bits(written["linear.bias"], values["base"]["linear.bias"])


def test_a_module_that_the_fine_tunes_lack_is_the_bases_and_that_is_told(merged, tmp_path, bits):
    values = {}
    out = merged(lambda folder: values.update(add_dense(folder)))
    written = load_file(out / "2_Dense" / "model.safetensors")
    assert all(bits(written[name], values[name]) for name in DENSE)
    problems = preflight(tmp_path / "base", [tmp_path / "a"]).problems
    assert [problem.text for problem in problems if "2_Dense" in problem.text] == [
        "a: it has no weights in 2_Dense, a part of the base, which is kept as it is."
    ]


def test_an_adapter_has_no_place_for_modules_in_sub_folders_and_says_so(tmp_path, llama, write):
    for number, name in enumerate(("base", "a")):
        add_dense(write(tmp_path / name, llama(number), {}), number)
    base = Checkpoint(tmp_path / "base")
    fit = extract(open_vector(tmp_path / "a", base), base, tmp_path / "out", rank=2)
    assert not any("2_Dense" in row.name for row in fit.rows)
    assert {part.kind: part.tensors for part in fit.left_out}["sub-folders"] == 2


def test_no_link_that_leads_out_is_copied_and_each_is_told(merged, tmp_path):
    (tmp_path / "secret").write_text("TOP SECRET")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key.txt").write_text("TOP SECRET")

    def prepare(folder):
        (folder / "LICENSE").symlink_to("/etc/passwd")
        (folder / "vocab.txt").symlink_to("../secret")
        (folder / "chain.txt").symlink_to("vocab.txt")
        (folder / "additional_chat_templates").symlink_to(tmp_path / "secrets")

    out = merged(prepare)
    held = b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
    assert b"TOP SECRET" not in held and b"root:" not in held
    outside = "it is a link that leads out of its folder"
    assert json.loads((out / "MANIFEST.json").read_text())["left_out"] == {
        "LICENSE": outside,
        "additional_chat_templates/": "it is a link to a folder",
        "chain.txt": outside,
        "vocab.txt": outside,
    }
    line = f"Not copied from the base's folder: LICENSE, chain.txt, vocab.txt ({outside}); "
    assert line in (out / "README.md").read_text()
    (problem,) = preflight(tmp_path / "base", [tmp_path / "a"]).problems
    assert (problem.severity, problem.subject) == ("info", "base") and outside in problem.message


@pytest.mark.parametrize("name", ["config.json", "modules.json"])
def test_a_base_is_refused_if_a_file_that_it_needs_leads_out(merged, tmp_path, name):
    """Its content could be anybody's JSON, such as the passwords that Docker keeps."""

    def prepare(folder):
        add_dense(folder)
        shutil.move(folder / name, tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)

    with pytest.raises(ExportError, match=f"{name} is not copied into an export: it is a link"):
        merged(prepare)
    assert not (tmp_path / "out").exists()


def test_weights_may_be_links_to_another_disk(merged, tmp_path):
    """The person at the command line named the folder; the page has a door of its own."""

    def prepare(folder):
        shutil.move(folder / "model.safetensors", tmp_path / "elsewhere")
        (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")

    assert not (merged(prepare) / "model.safetensors").is_symlink()


def test_the_blobs_of_a_hub_cache_are_copied(tmp_path, llama, tuned, write):
    weights = llama()
    folder = write(tmp_path / "download", weights, {"model_type": "llama"})
    (folder / "source.spm").write_text("pieces")
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(repository / "blobs" / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    write(tmp_path / "a", tuned(weights, 1), {})
    recipe = Recipe.compose(snapshot, {"a": tmp_path / "a"}, {"a": 1.0})
    out = export(recipe, *open_recipe(recipe), tmp_path / "out")
    assert (out / "source.spm").read_text() == "pieces"


def test_a_file_that_becomes_a_pickle_or_grows_after_it_was_chosen(tmp_path, write):
    base = Checkpoint(write(tmp_path / "base", {"w": torch.ones(3)}, {}))
    (base.path / "vocab.txt").write_bytes(b"word")
    chosen = side_files(base)
    (base.path / "vocab.txt").write_bytes(pickle.dumps({"a": 1}))
    recipe = Recipe.compose(base.path, {"a": "a"}, {"a": 1.0})
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="vocab.txt has become a pickle. Export again"):
        write_side_files(tmp_path / "out", base, recipe, None, chosen.taken)
    (base.path / "vocab.txt").write_bytes(b"words and words")
    with (
        open_inside(base.path, "vocab.txt") as source,
        pytest.raises(ExportError, match="vocab.txt has grown beyond 4 bytes while it was copied"),
    ):
        copy_file(tmp_path / "vocab.txt", source, 4)


def test_the_room_that_side_files_take_is_counted(merged, monkeypatch):
    from merging.outputs import staging

    asked = []
    monkeypatch.setattr(staging, "check_room", lambda out, nbytes: asked.append(nbytes))
    out = merged(lambda folder: (folder / "big.txt").write_bytes(b"x" * 10_000))
    weights = Checkpoint(out).nbytes
    assert asked[-1] == weights + 10_000 + (out / "config.json").stat().st_size


def test_the_note_of_the_card_cannot_leave_its_place():
    assert left_out_note({}) == ""
    assert "&lt;script>" in left_out_note({"<script>.py": "it is code"})
