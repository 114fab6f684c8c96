"""A folder as a lazy mapping: what is read, what is refused, and what happens when files change underneath."""

import json
import os
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merging import Checkpoint, CheckpointError, in_memory
from merging.inputs.checkpoint import (
    counting_reads,
    dtype_of,
    in_file,
    read_block,
    shape_of,
    tell_read,
)
from merging.paths import exists, is_adapter

INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_come_back_bit_for_bit(dtype, shards, tmp_path, llama, write, bits):
    weights = llama(dtype=dtype) | {
        "steps": torch.tensor(7),
        "flags": torch.tensor([True, False, True]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "empty": torch.empty(0, 3),
    }
    checkpoint = Checkpoint(write(tmp_path / "m", weights, {"model_type": "llama"}, shards=shards))
    assert set(checkpoint) == set(weights)
    assert len(checkpoint) == len(weights)
    assert all(bits(checkpoint[name], value) for name, value in weights.items())
    assert all(bits(value, weights[name]) for name, value in in_memory(checkpoint).items())
    assert checkpoint.nbytes == sum(value.nbytes for value in weights.values())
    assert checkpoint.numel == sum(value.numel() for value in weights.values())
    assert checkpoint.config == {"model_type": "llama"}
    assert len(checkpoint.shards) == shards
    assert f"{len(weights)} tensors" in repr(checkpoint)


def test_names_come_in_natural_order(tmp_path, write):
    names = ["h.10.w", "h.2.w", "h.1.w", "a"]
    checkpoint = Checkpoint(write(tmp_path / "m", {name: torch.ones(1) for name in names}))
    assert list(checkpoint) == ["a", "h.1.w", "h.2.w", "h.10.w"]


def test_a_block_is_a_part_of_the_flattened_tensor(tmp_path, write):
    checkpoint = Checkpoint(write(tmp_path / "m", {"w": torch.arange(77.0).view(7, 11)}))
    assert checkpoint.block("w", 10, 13).tolist() == [10, 11, 12]
    assert checkpoint.block("w", 77, 77).tolist() == []
    assert read_block(checkpoint, "w", 75, 77).tolist() == [75, 76]
    assert read_block({"w": torch.arange(6.0).view(2, 3)}, "w", 2, 5).tolist() == [2, 3, 4]
    assert (shape_of(checkpoint, "w"), dtype_of(checkpoint, "w")) == ((7, 11), torch.float32)


def test_a_block_that_does_not_fit_in_the_memory_given_lies_in_its_own(tmp_path, write):
    values = torch.arange(10, dtype=torch.float32)
    found = Checkpoint(write(tmp_path / "m", {"x": values}))
    for size in (40, 39, 0):
        scratch = torch.zeros(size, dtype=torch.uint8)
        block = found.block("x", 0, 10, scratch)
        assert torch.equal(block, values) and (block.data_ptr() == scratch.data_ptr()) == (
            size == 40
        )


def test_each_read_is_fresh_memory(tmp_path, write):
    checkpoint = Checkpoint(write(tmp_path / "m", {"w": torch.ones(3)}))
    checkpoint["w"].zero_()
    assert checkpoint["w"].tolist() == [1, 1, 1]


def test_membership_reads_nothing(tmp_path, write, monkeypatch):
    checkpoint = Checkpoint(write(tmp_path / "m", {"w": torch.ones(3)}))
    monkeypatch.setattr(os, "preadv", lambda *_: pytest.fail("read"))
    assert "w" in checkpoint
    assert "v" not in checkpoint


def test_an_unknown_tensor_names_the_nearest(tmp_path, write):
    checkpoint = Checkpoint(write(tmp_path / "m", {"model.norm.weight": torch.ones(3)}))
    with pytest.raises(
        KeyError, match=r"has no tensor 'model.norms.weight'; did you mean 'model.norm.weight'"
    ):
        checkpoint["model.norms.weight"]


def test_one_file_under_any_name_is_read(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "weights.safetensors")
    assert list(Checkpoint(tmp_path)) == ["w"]


def test_the_digest_follows_content_and_the_identity_place_and_time(tmp_path, write):
    one = write(tmp_path / "one", {"w": torch.ones(300)})
    same = write(tmp_path / "same", {"w": torch.ones(300)})
    tuned = write(tmp_path / "tuned", {"w": torch.full((300,), 1.5)})
    shape = write(tmp_path / "shape", {"w": torch.ones(30, 10)})
    digests = [Checkpoint(path).digest for path in (one, same, tuned, shape)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    identities = [Checkpoint(path).identity for path in (one, same)]
    assert identities[0] != identities[1]
    before = Checkpoint(one).identity
    os.utime(one / "model.safetensors", ns=(5, 5))
    assert Checkpoint(one).identity != before
    assert Checkpoint(one).digest == digests[0]


def test_metadata_of_the_header_is_kept(tmp_path):
    save_file(
        {"w": torch.ones(3)}, tmp_path / "model.safetensors", {"format": "pt", "dem_digest": "abc"}
    )
    assert Checkpoint(tmp_path).metadata == {"format": "pt", "dem_digest": "abc"}


def test_a_hub_cache_of_links_into_blobs_is_read(tmp_path, write):
    blobs = write(tmp_path / "blobs", {"w": torch.ones(3)}, {"model_type": "x"})
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert Checkpoint(snapshot)["w"].tolist() == [1, 1, 1]


# ---------------------------------------------------------------------------------------------- what is in the folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"holds no safetensors weights \(it is empty\)"),
        (["notes.txt"], r"holds no safetensors weights \(notes.txt\)"),
        (["a.safetensors", "b.safetensors"], f"holds a.safetensors, b.safetensors but no {INDEX}"),
        (
            ["pytorch_model.bin"],
            r"holds pickle weights \(pytorch_model.bin\).*Pickles can run code.*convert them once",
        ),
        (["model.pt", "x.ckpt", "y.pth"], r"holds pickle weights \(model.pt, x.ckpt, y.pth\)"),
        (
            ["model.gguf"],
            "holds model.gguf; only safetensors weights in full precision can be merged",
        ),
        (["model.onnx"], "holds model.onnx; only safetensors"),
        (["tf_model.h5"], "holds tf_model.h5; only safetensors"),
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            "is a PEFT adapter, expected a full checkpoint. Add it as",
        ),
        ([f"{i}.safetensors" for i in range(7)], "and 2 more but no"),
    ],
)
def test_a_folder_without_weights_says_what_is_there_and_what_is_needed(files, message, tmp_path):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_pickle_is_never_opened(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    for name in ("model.safetensors", "model.bin"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(pickle.dumps(Bomb()) + b" " * 64)
        with pytest.raises(CheckpointError, match="pickle"):
            Checkpoint(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_path_that_is_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist. Give the folder of a saved model"):
        Checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint("x" * 5000)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file. Give the folder that holds it"):
        Checkpoint(tmp_path / "file")


def test_a_folder_or_fifo_named_as_weights_is_refused_without_waiting(tmp_path):
    (tmp_path / "a" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="model.safetensors is not a regular file"):
        Checkpoint(tmp_path / "a")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors is not a regular file"):
        Checkpoint(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "config.json holds a JSON list, expected an object"),
        ("{", "config.json is not valid JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("[" * 100_000, "config.json is not valid JSON"),
        ('{"a": ' + "1" * 5000 + "}", "config.json is not valid JSON"),
    ],
)
def test_a_broken_configuration_is_refused(text, message, tmp_path, write):
    write(tmp_path / "m", {"w": torch.ones(3)})
    (tmp_path / "m" / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(tmp_path / "m")


def test_infinity_is_allowed_in_a_configuration(tmp_path, write):
    write(tmp_path / "m", {"w": torch.ones(3)})
    (tmp_path / "m" / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    assert Checkpoint(tmp_path / "m").config == {"time_step_limit": [0.0, float("inf")]}


# --------------------------------------------------------------------------------------------------- index and shards


@pytest.fixture
def sharded(tmp_path, llama, write):
    return write(tmp_path / "m", llama(), shards=2)


def edit_index(folder, change):
    document = json.loads((folder / INDEX).read_text())
    change(document["weight_map"])
    (folder / INDEX).write_text(json.dumps(document))


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update(ghost=ONE),
            rf"says that 'ghost' is in {ONE}; it is in no shard. Copy the folder again",
        ),
        (lambda m: m.update({"model.embed_tokens.weight": TWO}), rf"is in {TWO}; it is in {ONE}"),
        (
            lambda m: m.pop("model.norm.weight"),
            r"does not list model.norm.weight, which the shards hold",
        ),
        (
            lambda m: m.update(ghost="model-00003-of-00002.safetensors"),
            "names model-00003-of-00002.safetensors, which is",
        ),
        (
            lambda m: m.update(ghost="../x.safetensors"),
            "An index that points elsewhere is not followed",
        ),
    ],
)
def test_an_index_that_does_not_agree_with_its_shards_is_refused(change, message, sharded):
    edit_index(sharded, change)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(sharded)


def test_a_tensor_in_two_shards_is_refused_with_both(sharded):
    save_file({"model.embed_tokens.weight": torch.ones(2)}, sharded / TWO)
    with pytest.raises(
        CheckpointError,
        match=rf"'model.embed_tokens.weight' is in {ONE} and in {TWO}; two versions",
    ):
        Checkpoint(sharded)


def test_a_folder_with_two_models_is_refused(sharded):
    save_file({"w": torch.ones(2)}, sharded / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds model.safetensors and shards with an index: two models"
    ):
        Checkpoint(sharded)


def test_a_missing_shard_is_named(sharded):
    (sharded / TWO).unlink()
    with pytest.raises(
        CheckpointError, match=f"names {TWO}, which is missing. Download the folder again"
    ):
        Checkpoint(sharded)


def test_a_truncated_shard_is_named_with_the_missing_bytes(sharded):
    os.truncate(sharded / TWO, (sharded / TWO).stat().st_size - 5)
    with pytest.raises(CheckpointError, match=rf"{TWO} is cut short: .* \(5 missing\)"):
        Checkpoint(sharded)


# ------------------------------------------------------------------------------------- files that change while in use


def test_a_file_that_changed_is_an_error_not_other_weights(tmp_path, write):
    folder = write(tmp_path / "m", {"w": torch.ones(3)})
    checkpoint = Checkpoint(folder)
    save_file({"w": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"has changed on disk since it was opened. Open the folder again"
    ):
        checkpoint["w"]
    with pytest.raises(CheckpointError, match="has changed on disk"):
        checkpoint.digest


def test_a_file_that_went_away_is_an_error(tmp_path, write):
    folder = write(tmp_path / "m", {"w": torch.ones(3)})
    checkpoint = Checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"model.safetensors cannot be read: No such file or directory"
    ):
        checkpoint["w"]


def test_a_fifo_in_the_place_of_a_file_does_not_hang(tmp_path, write):
    folder = write(tmp_path / "m", {"w": torch.ones(3)})
    checkpoint = Checkpoint(folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    failed = []

    def read():
        try:
            checkpoint["w"]
        except CheckpointError as error:
            failed.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(20)
    assert "has changed on disk" in failed[0]


def test_a_read_that_ends_early_is_an_error(tmp_path, write, monkeypatch):
    checkpoint = Checkpoint(write(tmp_path / "m", {"w": torch.ones(3)}))
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(CheckpointError, match=r"was cut short while it was read. Copy it again"):
        checkpoint["w"]


def test_a_disk_that_fails_is_an_error(tmp_path, write, monkeypatch):
    checkpoint = Checkpoint(write(tmp_path / "m", {"w": torch.ones(3)}))

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: reading failed: Input/output error"
    ):
        checkpoint["w"]


def test_a_server_that_has_forgotten_the_file_is_an_error(tmp_path, write, monkeypatch):
    checkpoint = Checkpoint(write(tmp_path / "m", {"w": torch.ones(3)}))

    def stale(*_):
        raise OSError(116, "Stale file handle")

    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", stale)
        with pytest.raises(
            CheckpointError, match=r"model.safetensors: reading failed: Stale file handle"
        ):
            checkpoint["w"]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_where_elements_are_in_a_file(tmp_path, write):
    checkpoint = Checkpoint(write(tmp_path / "m", {"a": torch.ones(3), "w": torch.arange(11.0)}))
    with ExitStack() as files:
        stored = checkpoint.in_file("w", 2, 7, files)
        assert (stored.path, stored.size, stored.dtype) == (
            tmp_path / "m" / "model.safetensors",
            5,
            torch.float32,
        )
        found = os.pread(stored.file, stored.size * 4, stored.offset)
        assert torch.frombuffer(bytearray(found), dtype=torch.float32).tolist() == [2, 3, 4, 5, 6]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(stored.file)
    assert in_file({"w": torch.ones(3)}, "w", 0, 3, files) is None


def test_reads_that_return_a_few_bytes_at_a_time_are_put_together(tmp_path, write, monkeypatch):
    checkpoint = Checkpoint(write(tmp_path / "m", {"w": torch.arange(11.0)}))
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: real(fd, [buffers[0][:7]], at))
    assert checkpoint["w"].tolist() == list(range(11))


TRUNCATED = """
import os, sys, threading
from merging import Checkpoint, CheckpointError
checkpoint = Checkpoint(sys.argv[1])
threading.Timer(0.2, os.truncate, (sys.argv[1] + "/model.safetensors", 4096)).start()
try:
    while True:
        checkpoint["w"]
except CheckpointError as error:
    print(error)
"""


def test_a_file_cut_short_while_it_is_read_does_not_kill_the_process(tmp_path, write):
    folder = write(tmp_path / "m", {"w": torch.ones(1_000_003)})
    ended = subprocess.run(
        [sys.executable, "-c", TRUNCATED, folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr  # mapped, it would be −7: SIGBUS
    assert "has changed on disk" in ended.stdout or "was cut short" in ended.stdout


def test_is_adapter_and_exists(tmp_path):
    assert not is_adapter(tmp_path)
    assert not is_adapter("x" * 5000)
    (tmp_path / "adapter_config.json").touch()
    assert is_adapter(str(tmp_path))
    assert exists(tmp_path)


def test_a_checkpoint_with_no_tensor_at_all_opens(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    checkpoint = Checkpoint(tmp_path)
    assert (list(checkpoint), checkpoint.nbytes) == ([], 0)
    assert (len(checkpoint.digest), len(checkpoint.sampled_digest)) == (32, 64)


@pytest.fixture
def read_one(tmp_path):
    """A checkpoint with one tensor of 21 elements of two bytes."""
    save_file({"a": torch.zeros(7, 3, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    return Checkpoint(tmp_path)


def test_every_way_of_reading_a_checkpoint_is_counted(read_one):
    reads = []
    with counting_reads(reads.append), ExitStack() as files:
        read_one["a"]
        read_one.block("a", 2, 5)
        read_one.in_file("a", 1, 12, files)
    read_one["a"]  # nobody counts any more
    assert reads == [2 * 21, 2 * 3, 2 * 11]


def test_each_thread_has_a_counter_of_its_own_and_blocks_nest(read_one):
    outer, inner = [], []
    with counting_reads(outer.append):
        with counting_reads(inner.append):
            read_one.block("a", 0, 1)
        other = threading.Thread(target=read_one.block, args=("a", 0, 21))
        other.start()
        other.join()
        read_one.block("a", 0, 2)
    assert (inner, outer) == ([2], [4])


def test_a_counter_may_stop_the_reading(read_one):
    def stop(nbytes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), counting_reads(stop):
        read_one["a"]
    tell_read(1)  # without a counter nothing happens
