"""An export is complete and verified, or it is not there."""

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from merging import (
    Checkpoint,
    ExportError,
    Recipe,
    RecipeError,
    export,
    merge,
    open_recipe,
    open_vector,
    verify,
)
from merging.engine.identities import with_identities
from merging.outputs.export import export_bytes
from merging.outputs.side_files import side_files
from merging.outputs.weight_plan import WeightFile
from merging.recipe import parse_recipe, read_recipe, recipe_yaml


def staging():
    return sys.modules["merging.outputs.staging"]


def engine():
    return sys.modules["merging.outputs.export"]


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 7,
    "intermediate_size": 11,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 7,
    "vocab_size": 31,
    "dtype": "float32",
    "tie_word_embeddings": False,
}


def files_of(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def whole(recipe):
    return recipe, *open_recipe(recipe)


@pytest.fixture
def parts(tmp_path, llama, tuned, write):
    """(recipe, base, vectors) of a small merge on disk."""
    weights = llama()
    folder = write(tmp_path / "base", weights, CONFIG)
    base = Checkpoint(folder)
    path = write(tmp_path / "cot", tuned(weights, 1))
    return (
        Recipe.compose(folder, {"cot": path}, {"cot": 0.7}),
        base,
        {"cot": open_vector(path, base)},
    )


def test_the_folder_holds_the_merge_and_the_library_reads_it(parts, tmp_path, bits):
    recipe, base, vectors = parts
    out = export(recipe, base, vectors, tmp_path / "out")
    assert out == tmp_path / "out"
    assert files_of(out) == [
        "MANIFEST.json",
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.yml",
    ]
    wanted = dict(merge(recipe, base, vectors))
    read = load_file(out / "model.safetensors")
    assert read.keys() == wanted.keys()
    assert all(bits(read[name], wanted[name]) for name in wanted)
    assert (out / "config.json").read_bytes() == (base.path / "config.json").read_bytes()
    assert [file for file in tmp_path.iterdir() if "staging" in file.name] == []


def test_the_header_and_the_folder_carry_the_recipe(parts, tmp_path):
    recipe, base, vectors = parts
    out = export(recipe, base, vectors, tmp_path / "out", command="dem merge r.yml out")
    with safe_open(out / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert parse_recipe(metadata["dem_recipe"]) == recipe
    known = {"base": base.digest, "cot": vectors["cot"].digest}
    assert read_recipe(out / "recipe.yml") == replace(recipe, inputs=known)
    assert (metadata["dem_digest"], metadata["format"]) == (recipe.digest, "pt")
    assert Checkpoint(out).metadata == metadata
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "transformers", "tags": ["merge", "distribution-edited-model"]}
    assert "    Θ + 0.70·Δcot\n" in card
    assert "    dem merge r.yml out\n" in card
    assert f"| cot | cot | 0.7 | `{vectors['cot'].digest[:12]}` |" in card


def test_the_card_names_a_base_from_the_hub_by_its_id_and_commit(tmp_path, llama, tuned, write):
    """The folder is a cache's; its name is the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    base = llama()
    write(tmp_path / "snapshots" / commit, base, {})
    write(tmp_path / "cot", tuned(base, 1), {})
    recipe = Recipe.compose("org/base@main", {"cot": tmp_path / "cot"}, {"cot": 1.0})
    opened = open_recipe(
        recipe, lambda name: tmp_path / "snapshots" / commit if "org" in name else Path(name)
    )
    out = export(recipe, *opened, tmp_path / "out")
    assert f"Base Θ: org/base, commit {commit}, digest" in (out / "README.md").read_text()


def test_an_export_can_be_repeated_from_its_own_recipe_byte_for_byte(parts, tmp_path):
    recipe, base, vectors = parts
    first = export(recipe, base, vectors, tmp_path / "first")
    again = read_recipe(first / "recipe.yml")
    second = export(again, *open_recipe(again), tmp_path / "second")
    assert (first / "MANIFEST.json").read_bytes() == (second / "MANIFEST.json").read_bytes()
    assert verify(first) == verify(second)


@pytest.mark.parametrize("method", ["task_arithmetic", "dare_linear", "ties"])
def test_the_bytes_do_not_depend_on_threads_or_blocks(method, parts, tmp_path, pieces):
    """An element method, a random one and a whole-tensor one, each with stochastic rounding too."""
    plain, base, vectors = parts
    recipe = replace(plain.with_method(method), out_dtype="bfloat16", rounding="stochastic", seed=5)
    if method != "task_arithmetic":
        recipe = replace(recipe, parameters={"density": 0.5})
    found = set()
    for threads, block in [(1, 2**18), (2, 53), (5, 7)]:
        pieces(block)
        out = export(
            recipe, base, vectors, tmp_path / f"out{threads}", threads=threads, shard_bytes=900
        )
        found.add(
            tuple(
                (out / name).read_bytes() for name in files_of(out) if name.endswith(".safetensors")
            )
        )
    assert len(found) == 1 and len(next(iter(found))) > 2


def test_finite_values_whose_sum_is_not_are_written(tmp_path, write):
    large = {"w": torch.full((2, 3), 3e38)}
    write(tmp_path / "base", large)
    write(tmp_path / "fine", {"w": large["w"] * 0.9})
    out = export(
        *whole(Recipe.compose(tmp_path / "base", {"fine": tmp_path / "fine"}, {"fine": 0.5})),
        tmp_path / "out",
    )
    assert load_file(out / "model.safetensors")["w"].isfinite().all()


def test_shards_have_the_asked_size_and_an_index(parts, tmp_path, bits):
    recipe, base, vectors = parts
    limit = 1000
    out = export(recipe, base, vectors, tmp_path / "out", shard_bytes=limit)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(out.glob("*.safetensors"))
    assert [file.name for file in shards] == [
        f"model-{i:05d}-of-00008.safetensors" for i in range(1, 9)
    ]
    assert (
        index["metadata"]
        == {"total_size": base.nbytes}
        == {"total_size": export_bytes(recipe, base, vectors)}
    )
    found = {}
    for file in shards:
        tensors = load_file(file)
        assert sum(value.nbytes for value in tensors.values()) <= limit or len(tensors) == 1
        assert all(index["weight_map"][name] == file.name for name in tensors)
        found |= tensors
    wanted = dict(merge(recipe, base, vectors))
    assert all(bits(found[name], wanted[name]) for name in wanted)
    assert list(Checkpoint(out)) == list(base)


def test_the_file_is_laid_out_as_the_library_lays_it_out(tmp_path, write, tuned, recipe):
    """Wide dtypes first, header padded: each tensor begins at a multiple of its element size."""
    weights = {
        "a": torch.ones(3, dtype=torch.uint8),
        "b": torch.rand(5).bfloat16(),
        "c": torch.rand(3).double(),
        "d": torch.rand(7),
        "e": torch.tensor([True]),
        "f": torch.empty(0, 2),
    }
    base = Checkpoint(write(tmp_path / "base", weights))
    path = write(tmp_path / "tuned", tuned(weights, 1))
    out = export(recipe({"t": 0.5}), base, {"t": open_vector(path, base, "t")}, tmp_path / "out")
    written = Checkpoint(out)
    assert {
        name: (written.info(name).start % written.info(name).dtype.itemsize) for name in written
    } == dict.fromkeys(weights, 0)
    assert int.from_bytes((out / "model.safetensors").read_bytes()[:8], "little") % 8 == 0


def test_transformers_loads_it_with_nothing_missing_unexpected_or_mismatched(
    parts, tmp_path, tuned, llama, write, bits
):
    from transformers import AutoModelForCausalLM

    heads = {"q": (14, 7), "k": (2, 7), "v": (2, 7), "o": (7, 14)}
    weights = llama() | {
        f"model.layers.{i}.self_attn.{side}_proj.weight": torch.randn(shape)
        for i in range(3)
        for side, shape in heads.items()
    }
    config = CONFIG | {"num_attention_heads": 7, "head_dim": 2}
    base = Checkpoint(write(tmp_path / "seven heads", weights, config))
    tuned_path = write(tmp_path / "fine", tuned(weights, 3))
    recipe = Recipe.compose(base.path, {"fine": tuned_path}, {"fine": 0.5}, out_dtype="bfloat16")
    out = export(
        recipe, base, {"fine": open_vector(tuned_path, base)}, tmp_path / "out", shard_bytes=2000
    )
    model, info = AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True, trust_remote_code=False
    )
    assert not any(info.values()), info
    assert model.dtype == torch.bfloat16
    state = model.state_dict()
    assert all(bits(state[name], value) for name, value in Checkpoint(out).items())


@pytest.mark.parametrize(
    ("config", "named", "wanted"),
    [
        ({"dtype": "float32"}, {"out_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "float32"}, {"out_dtype": "float16"}, {"torch_dtype": "float16"}),
        ({"model_type": "x"}, {"dtype": "bfloat16"}, {"model_type": "x", "dtype": "bfloat16"}),
        (
            {"torch_dtype": "a", "dtype": "b"},
            {"out_dtype": "float16"},
            {"torch_dtype": "float16", "dtype": "float16"},
        ),
        (
            {"dtype": "float32", "é": [0.0]},
            {"out_dtype": "float32"},
            {"dtype": "float32", "é": [0.0]},
        ),
        ({"dtype": "float32"}, {}, {"dtype": "float32"}),
    ],
)
def test_the_configuration_says_the_dtype_of_the_export(
    config, named, wanted, tmp_path, llama, tuned, write
):
    base = Checkpoint(write(tmp_path / "base", llama(), config))
    path = write(tmp_path / "cot", tuned(llama(), 1))
    recipe = Recipe.compose(base.path, {"cot": path}, {"cot": 1.0}, **named)
    out = export(recipe, base, {"cot": open_vector(path, base)}, tmp_path / "out")
    assert json.loads((out / "config.json").read_text()) == wanted
    if named in ({}, {"out_dtype": config.get("dtype")}):
        assert (out / "config.json").read_bytes() == (base.path / "config.json").read_bytes()


def test_tokenizer_templates_and_licence_come_along_but_no_code_and_no_other_weights(
    parts, tmp_path
):
    recipe, base, vectors = parts
    taken = {
        "tokenizer.json": "{}",
        "tokenizer_config.json": "{}",
        "generation_config.json": "{}",
        "special_tokens_map.json": "{}",
        "vocab.txt": "a",
        "merges.txt": "a b",
        "tokenizer.model": "x",
        "chat_template.jinja": "{{ x }}",
        "additional_chat_templates/tool_use.jinja": "{{ y }}",
        "LICENSE": "free",
        "NOTICE.md": "n",
        "adapter_config.json.bak": "{}",
    }
    left = {
        "modeling_x.py": "boom",
        "pytorch_model.bin": "pickle",
        "optimizer.pt": "pickle",
        "training_args.bin": "pickle",
        "pytorch_model.bin.index.json": "{}",
        "trainer_state.json": "{}",
        "training.json": '{"curve": []}',  # how the base was trained, not the merge
        "README.md": "the base's card",
        "recipe.yml": "another",
        "additional_chat_templates/evil.py": "boom",
        ".env": "SECRET=1",
        "MANIFEST.json": "{}",
    }
    (base.path / "additional_chat_templates").mkdir()
    for name, content in (taken | left).items():
        (base.path / name).write_text(content)
    os.mkfifo(base.path / "pipe.txt")
    out = export(recipe, base, vectors, tmp_path / "out")
    own = ["MANIFEST.json", "README.md", "config.json", "model.safetensors", "recipe.yml"]
    assert files_of(out) == sorted([*own, *taken])
    assert all((out / name).read_text() == content for name, content in taken.items())
    assert "the base's card" not in (out / "README.md").read_text()
    assert set(side_files(base).taken) == {*taken, "config.json"}


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_modes_follow_the_umask(mask, parts, tmp_path):
    before = os.umask(mask)
    try:
        out = export(*parts, tmp_path / "out", shard_bytes=3000)
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~mask
    assert {stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()} == {0o666 & ~mask}


def test_every_file_and_folder_is_flushed_before_the_rename_and_the_parent_after(
    parts, tmp_path, monkeypatch
):
    recipe, base, vectors = parts
    (base.path / "additional_chat_templates").mkdir()
    (base.path / "additional_chat_templates" / "t.jinja").write_text("x")
    events = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor):
        events.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    def rename(self, target):
        events.append("RENAME")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    out = export(recipe, base, vectors, tmp_path / "out", shard_bytes=2000)
    position = events.index("RENAME")
    staging = os.path.commonpath(events[:position])
    flushed = {os.path.relpath(path, staging) for path in events[:position]}
    assert flushed == {*files_of(out), ".", "additional_chat_templates"}
    assert events[position + 1 :] == [str(tmp_path)]


def test_progress_counts_every_byte_that_is_read_and_every_byte_of_the_files(parts, tmp_path):
    calls = []
    out = export(*parts, tmp_path / "out", progress=lambda *call: calls.append(call))
    total = 2 * parts[1].nbytes  # of the base and of one vector
    written = [done for stage, done, _ in calls if stage == "write"]
    assert written == sorted(written)
    assert written[-1] == total
    assert {of for stage, _, of in calls if stage == "write"} == {total}
    read = [(done, of) for stage, done, of in calls if stage == "verify"]
    assert read[-1] == (verify(out).nbytes, verify(out).nbytes)


# ----------------------------------------------------------------------------------------- refusals


def test_what_is_there_is_never_overwritten(parts, tmp_path):
    for name, make in {
        "folder": Path.mkdir,
        "file": Path.touch,
        "dangling": lambda path: path.symlink_to(tmp_path / "nowhere"),
    }.items():
        make(tmp_path / name)
        with pytest.raises(ExportError, match=f"{name} exists. Give a new folder"):
            export(*parts, tmp_path / name)
    assert (tmp_path / "dangling").is_symlink()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_computed(
    parts, tmp_path, monkeypatch
):
    with pytest.raises(ExportError, match="nowhere is not a folder. Make it first"):
        export(*parts, tmp_path / "nowhere" / "out")
    with pytest.raises(ExportError, match=r"could not be written: File name too long"):
        export(*parts, tmp_path / ("x" * 250))
    with pytest.raises(ExportError, match=r"could not be written: File name too long"):
        export(*parts, tmp_path / ("x" * 5000))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ExportError, match="is not writable. Give another place"):
        export(*parts, tmp_path / "out")


def test_too_little_room_is_refused_with_the_numbers(parts, tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1_000_000))
    with pytest.raises(
        ExportError,
        match=r"has 0.00 GB free, the export needs 0.06 GB. Free some, choose a smaller",
    ):
        export(*parts, tmp_path / "out")


@pytest.mark.parametrize("omega", [1.0, 0.0])
def test_float16_overflow_is_refused_with_the_name_of_the_tensor(
    omega, tmp_path, llama, tuned, write
):
    weights = llama()
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = 70_000.0
    base = Checkpoint(write(tmp_path / "base", weights))
    path = write(tmp_path / "cot", tuned(weights, 1))
    vectors = {"cot": open_vector(path, base)}
    recipe = Recipe.compose(base.path, {"cot": path}, {"cot": omega}, out_dtype="float16")
    with pytest.raises(
        ExportError, match=r"layers.1.mlp.up_proj.weight: 1 merged values are not finite.*65,504"
    ):
        export(recipe, base, vectors, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_values_that_are_not_finite_are_refused_where_they_are_computed_and_copied_where_not(
    tmp_path, llama, tuned, write
):
    weights = llama()
    fine = tuned(weights, 1)
    fine["model.norm.weight"][2] = float("nan")
    weights["model.rotary.inv_freq"] = torch.tensor([1.0, float("inf")])
    base = Checkpoint(write(tmp_path / "base", weights))
    path = write(tmp_path / "cot", fine)
    vectors = {"cot": open_vector(path, base)}
    with pytest.raises(
        ExportError, match=r"model.norm.weight: 1 merged values are not finite. Look for NaN"
    ):
        export(
            Recipe.compose(base.path, {"cot": path}, {"cot": 0.5}), base, vectors, tmp_path / "out"
        )
    out = export(
        Recipe.compose(base.path, {"cot": path}, {"cot": 0}), base, vectors, tmp_path / "out"
    )
    assert Checkpoint(out)["model.rotary.inv_freq"].tolist() == [1.0, float("inf")]


def test_a_recipe_that_cannot_be_carried_out_writes_nothing(parts, tmp_path):
    recipe, base, _ = parts
    with pytest.raises(RecipeError, match="names 'cot'"):
        export(recipe, base, {}, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "cot"]


def test_an_input_that_changed_since_it_was_opened_is_refused(parts, tmp_path):
    recipe, base, vectors = parts
    file = tmp_path / "cot" / "model.safetensors"
    os.utime(file, ns=(1, 1))
    with pytest.raises(
        Exception,
        match=r"model.safetensors has changed on disk since it was opened. Open the folder",
    ):
        export(recipe, base, vectors, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "cot"]


# ------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("stage", ["write", "verify"])
def test_an_exception_in_the_middle_leaves_nothing(kind, stage, parts, tmp_path):
    def progress(at, done, total):
        if at == stage:
            raise kind("stop")

    with pytest.raises(kind):
        export(*parts, tmp_path / "out", progress=progress)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "cot"]


@pytest.mark.parametrize("call", range(8))
def test_an_fsync_that_fails_at_any_point_leaves_nothing(call, parts, tmp_path, monkeypatch):
    """The last of them is the flush of the parent, after the rename."""
    calls = iter(range(100))
    real = os.fsync

    def fsync(descriptor):
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if call == 7:  # five files, two folders
        export(*parts, tmp_path / "out")
        return
    with pytest.raises(
        ExportError, match="could not be written: No space left on device. Nothing was left behind"
    ):
        export(*parts, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "cot"]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_where_room_cannot_be_reserved_it_is_written_without(code, parts, tmp_path, monkeypatch):
    def refuse(*given):
        raise OSError(code, os.strerror(code))

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    verify(export(*parts, tmp_path / "out"))


def test_room_is_reserved_to_the_byte_and_a_disk_without_it_is_said_at_once(
    parts, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        os, "posix_fallocate", lambda descriptor, start, nbytes: asked.append((start, nbytes))
    )
    out = export(*parts, tmp_path / "out")
    assert asked == [(0, (out / "model.safetensors").stat().st_size)]

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ExportError, match="could not be written: No space left on device"):
        export(*parts, tmp_path / "again")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "cot", "out"]


def test_a_full_disk_while_writing_leaves_nothing(parts, tmp_path):
    """A limit on file size fails a write as a full disk does, half way through."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
        with pytest.raises(
            ExportError, match="could not be written: File too large. Nothing was left behind"
        ):
            export(*parts, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "cot"]


def test_what_was_written_is_read_back_and_compared(parts, tmp_path, monkeypatch):
    real = os.pwrite

    def forgetful(descriptor, values, begin):
        return real(descriptor, bytes(values)[:-1] + b"\x55", begin)

    monkeypatch.setattr(os, "pwrite", forgetful)
    with pytest.raises(
        ExportError, match=r"model.safetensors: from byte 0 on, the disk does not hold what was"
    ):
        export(*parts, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "cot"]


def test_names_shapes_and_dtypes_are_asserted_on_the_written_file(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(
        engine(),
        "plan_weight_files",
        lambda todo, folders, size: [WeightFile("model.safetensors", tuple(todo[1:]))],
    )
    with pytest.raises(ExportError, match="is not the base's set of tensors"):
        export(*parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_appears_meanwhile_is_left_alone(parts, tmp_path):
    def progress(stage, done, total):
        if stage == "verify" and done == total:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "mine").touch()

    with pytest.raises(ExportError, match="was made by another program while the export ran"):
        export(*parts, tmp_path / "out", progress=progress)
    assert files_of(tmp_path / "out") == ["mine"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "cot", "out"]


def test_two_exports_to_one_name_do_not_mix(parts, tmp_path):
    inside, go = threading.Event(), threading.Event()

    def progress(stage, done, total):
        inside.set()
        go.wait(30)

    first = threading.Thread(target=lambda: export(*parts, tmp_path / "out", progress=progress))
    first.start()
    assert inside.wait(30)
    try:
        with pytest.raises(
            ExportError, match=rf"is being written by process {os.getpid()}. Wait for it"
        ):
            export(*parts, tmp_path / "out")
    finally:
        go.set()
        first.join(60)
    verify(tmp_path / "out")


KILLED = """
    import os, signal, sys
    from merging import export, open_recipe, read_recipe
    recipe = read_recipe(sys.argv[1])
    stage, after = sys.argv[3], int(sys.argv[4])
    calls = []
    def progress(at, done, total):
        calls.append(at)
        if calls.count(stage) > after:
            os.kill(os.getpid(), signal.SIGKILL)
    export(recipe, *open_recipe(recipe), sys.argv[2], progress=progress, shard_bytes=1500)
"""


@pytest.mark.parametrize(("stage", "after"), [("write", 0), ("write", 17), ("verify", 5)])
def test_a_killed_export_has_no_folder_and_the_next_one_sweeps(stage, after, parts, tmp_path):
    recipe, base, vectors = parts
    (tmp_path / "recipe.yml").write_text(recipe_yaml(recipe))
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(KILLED),
            tmp_path / "recipe.yml",
            tmp_path / "out",
            stage,
            str(after),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = [file.name for file in tmp_path.glob(".out.staging-*")]
    assert len(left) == 1
    assert not (tmp_path / "out").exists()
    (
        tmp_path / ".out.staging-99999999999999999999-1"
    ).mkdir()  # no number of a process, and never swept by trying it
    export(recipe, base, vectors, tmp_path / "out")
    assert not list(tmp_path.glob(".out.staging-*"))
    verify(tmp_path / "out")


def test_a_name_with_wildcards_sweeps_only_its_own(parts, tmp_path):
    others = tmp_path / ".out1.staging-999999999-1"
    own = tmp_path / ".out[1].staging-999999999-1"
    others.mkdir()
    own.mkdir()
    export(*parts, tmp_path / "out[1]")
    assert others.exists()
    assert not own.exists()


def test_a_process_of_somebody_else_or_without_proc_counts_as_alive(monkeypatch):
    def denied(number, sig):
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    began = staging()._process_identity(os.getpid())
    assert began.startswith(f"{os.getpid()}-")
    assert int(began.split("-")[1]) > 0
    assert staging()._process_identity(4_000_000) == "4000000-0"  # /proc has no such entry


# ------------------------------------------------------------------------------------------- verify


def change_byte(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_byte, "model.safetensors has changed"),
        (
            lambda folder: os.truncate(folder / "model.safetensors", 100),
            r"has 100 bytes, [\d,]+ were written",
        ),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "extra.bin").touch(), "extra.bin is not listed"),
        (
            lambda folder: (folder / "sub").mkdir() or (folder / "sub" / "x").touch(),
            "sub/x is not listed",
        ),
        (lambda folder: (folder / "recipe.yml").write_text("x"), "recipe.yml has 1 bytes"),
        (
            lambda folder: (folder / "README.md").unlink() or (folder / "README.md").mkdir(),
            "README.md is missing",
        ),
    ],
)
def test_verify_finds_each_kind_of_change(change, message, parts, tmp_path):
    out = export(*parts, tmp_path / "out")
    manifest = verify(out)
    assert manifest.recipe == with_identities(*parts).digest
    assert {
        name: (size, hashlib.sha256((out / name).read_bytes()).hexdigest())
        for name, (size, _) in manifest.files.items()
    } == manifest.files
    change(out)
    with pytest.raises(ExportError, match=message):
        verify(out)


def test_verify_reports_all_changes_at_once(parts, tmp_path):
    out = export(*parts, tmp_path / "out")
    change_byte(out)
    (out / "README.md").unlink()
    (out / "new").touch()
    with pytest.raises(
        ExportError, match=r"README.md is missing; model.safetensors has changed; new is not listed"
    ):
        verify(out)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        '{"files": [], "recipe": "x"}',
        '{"files": {"a": 1}, "recipe": "x"}',
        '{"files": {"a": {"bytes": "many", "sha256": "0"}}, "recipe": "x"}',
        '{"files": {"a": {"bytes": 1e999, "sha256": "0"}}, "recipe": "x"}',
    ],
)
def test_a_manifest_that_is_none_is_refused(text, tmp_path):
    (tmp_path / "MANIFEST.json").write_text(text)
    with pytest.raises(ExportError, match="is not a manifest of this tool"):
        verify(tmp_path)


def test_a_manifest_is_json_and_is_there(tmp_path):
    with pytest.raises(
        ExportError, match="has no MANIFEST.json; it is not a folder that `dem merge` finished"
    ):
        verify(tmp_path)
    (tmp_path / "MANIFEST.json").write_text("{")
    with pytest.raises(ExportError, match="is not valid JSON"):
        verify(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/hostname", "sub/../../secret", "link", "linked/secret", "sub", "", "a\0b"],
)
def test_a_manifest_cannot_make_verify_read_outside_its_folder(name, tmp_path):
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to("../secret")
    (folder / "linked").symlink_to(tmp_path)
    digest = hashlib.sha256(b"s").hexdigest()
    (folder / "MANIFEST.json").write_text(
        json.dumps({"recipe": "x", "files": {name: {"bytes": 1, "sha256": digest}}})
    )
    with pytest.raises(ExportError, match="is missing"):
        verify(folder)


def test_verify_reads_sub_folders_and_lists_links_that_nobody_wrote(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x y").write_text("s")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"s").hexdigest()}
    document = {"recipe": "x", "files": {"a/b/x y": entry}}
    (tmp_path / "MANIFEST.json").write_text(json.dumps(document))
    assert verify(tmp_path).nbytes == 1
    (tmp_path / "a" / "link").symlink_to("b/x y")
    (tmp_path / "a" / "folder").symlink_to("/etc")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(
        ExportError, match="a/folder is not listed; a/link is not listed; fifo is not listed"
    ):
        verify(tmp_path)


def test_a_folder_that_does_not_exist_cannot_be_verified(tmp_path):
    with pytest.raises(ExportError, match="nowhere does not exist. Give the folder of an export"):
        verify(tmp_path / "nowhere")
