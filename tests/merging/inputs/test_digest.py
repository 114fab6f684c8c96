"""The digest of weights: it covers every byte, and depends on nothing else."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from merging import Checkpoint, DistributionVector
from merging.errors import CheckpointError
from merging.inputs.digest import DIGITS, LEAF, Digested, combined
from merging.inputs.header import DTYPES, NAMES
from merging.inputs.vocabulary.aligned import Arranged, Layout
from merging.opening.stacked import Stacked

SIZES = (3 * LEAF + 246, LEAF, 1786, 14, 0)
"""Bytes of tensors: some leaves and a rest, one leaf, less than one, less than XXH3's long form, none."""


def made(dtype=torch.bfloat16, seed=0):
    """Tensors of one dtype with all kinds of sizes."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"model.layers.{number}.w": torch.randint(0, 2, (size,), generator=generator).to(
            torch.uint8
        )
        for number, size in enumerate(SIZES)
    }
    return {name: value[: value.numel() // 8 * 8].view(dtype) for name, value in tensors.items()}


def folder(path, tensors, shards=1, **metadata):
    """A model folder with these tensors in so many files."""
    path.mkdir(parents=True)
    names, where = list(tensors), {}
    for number in range(shards):
        name = "model.safetensors" if shards == 1 else f"part-{number}.safetensors"
        part = {key: tensors[key] for key in names[number::shards]}
        save_file(part, path / name, metadata or None)
        where |= dict.fromkeys(part, name)
    if shards > 1:
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return path


def by_hand(tensors):
    """The digest in plain Python, from its definition and the xxhash package alone."""
    whole = b""
    for name in sorted(tensors):
        value = tensors[name]
        data = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        leaves = [data[at : at + LEAF] for at in range(0, len(data), LEAF)]
        facts = json.dumps([name, NAMES[value.dtype], list(value.shape)]).encode()
        hashes = b"".join(xxhash.xxh3_64_intdigest(leaf).to_bytes(8, "little") for leaf in leaves)
        whole += xxhash.xxh3_128_digest(facts + hashes)
    return xxhash.xxh3_128_hexdigest(whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8, torch.float64])
def test_it_is_the_tree_of_its_definition(dtype, tmp_path):
    tensors = made(dtype)
    tensors["scalar"] = torch.tensor(3.0)
    digest = Checkpoint(folder(tmp_path / "m", tensors)).digest
    assert digest == by_hand(tensors) and len(digest) == DIGITS


def test_files_their_order_and_metadata_do_not_count(tmp_path):
    tensors = made()
    turned = dict(reversed(tensors.items()))
    digests = {
        Checkpoint(folder(tmp_path / "one", tensors)).digest,
        Checkpoint(folder(tmp_path / "sharded", tensors, shards=3)).digest,
        Checkpoint(folder(tmp_path / "turned", turned, shards=2, made="elsewhere")).digest,
    }
    (tmp_path / "named").mkdir()
    save_file(tensors, tmp_path / "named" / "weights.safetensors")
    assert digests == {Checkpoint(tmp_path / "named").digest}


def test_names_dtypes_and_shapes_count(tmp_path):
    value = torch.zeros(6, 4, dtype=torch.float16)
    others = [
        {"w": value},
        {"v": value},
        {"w": value.view(4, 6)},
        {"w": value.view(torch.bfloat16)},
        {"w": value.flatten()},
        {"w": value, "v": value.clone()},
        {"w": value, "empty": torch.zeros(0)},
    ]
    found = [
        Checkpoint(folder(tmp_path / str(number), tensors)).digest
        for number, tensors in enumerate(others)
    ]
    assert len(set(found)) == len(others)


@given(st.data())
def test_any_byte_of_any_tensor_changes_it(tmp_path_factory, data):
    dtype = data.draw(st.sampled_from(sorted(DTYPES.values(), key=str)))
    shapes = data.draw(
        st.lists(
            st.sampled_from([(), (1,), (7,), (3, 5), (LEAF // 8 + 3,)]), min_size=1, max_size=4
        )
    )
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    tensors = {}
    for number, shape in enumerate(shapes):
        size = int(np.prod(shape)) * dtype.itemsize
        raw = torch.randint(0, 2, (size,), generator=generator).to(torch.uint8)
        tensors[f"t{number}"] = raw.view(dtype).view(shape)
    path = folder(tmp_path_factory.mktemp("any") / "m", tensors)
    before = Checkpoint(path).digest
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    at = data.draw(st.integers(start, len(content) - 1))
    # 0 and 1 are valid in all dtypes, bool included.
    content[at] ^= 1
    file.write_bytes(content)
    assert Checkpoint(path).digest != before


# ------------------------------------------------------------------------------------- on the way


def without_reading(checkpoint, monkeypatch):
    """The digest of a checkpoint, and the spans that had to be read for it alone."""
    read, spans = Checkpoint._read_bytes, []

    def watched(self, name, start, target):
        spans.append((name, start, len(target)))
        read(self, name, start, target)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "_read_bytes", watched)
        return checkpoint.digest, spans


@pytest.mark.parametrize("step", [LEAF // 2, 2 * LEAF, 3 * LEAF // 2, 10 * LEAF])
def test_blocks_that_are_read_need_not_be_read_again(step, tmp_path, monkeypatch):
    tensors = made()
    path = folder(tmp_path / "m", tensors)
    checkpoint = Checkpoint(path)
    checkpoint.gather_digest()
    for name in reversed(list(checkpoint)):
        size = checkpoint.info(name).numel
        for start in range(0, size, step // 2):
            checkpoint.block(name, start, min(start + step // 2, size))
    digest, again = without_reading(checkpoint, monkeypatch)
    assert digest == by_hand(tensors) == Checkpoint(path).digest
    # Blocks of one leaf and a half never hold the second leaf whole.
    if step % LEAF == 0:
        assert again == []
    else:
        assert 0 < sum(size for *_, size in again) < 5 * LEAF


def test_without_gathering_all_is_read_and_after_it_nothing(tmp_path, monkeypatch):
    checkpoint = Checkpoint(folder(tmp_path / "m", made()))
    for name in checkpoint:
        checkpoint[name]
    _, read = without_reading(checkpoint, monkeypatch)
    assert sum(size for *_, size in read) == checkpoint.nbytes
    checkpoint.gather_digest()
    assert not checkpoint._tree.gathering  # it is known
    assert without_reading(checkpoint, monkeypatch)[1] == []


def test_threads_and_their_order_do_not_count(tmp_path):
    tensors = made()
    checkpoint = Checkpoint(folder(tmp_path / "m", tensors))
    checkpoint.gather_digest()
    blocks = [
        (name, start, min(start + LEAF // 2, info.numel))
        for name, info in checkpoint._tree._infos.items()
        for start in range(0, info.numel, LEAF // 2)
    ] * 3
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda block: checkpoint.block(*block), reversed(blocks)))
    assert checkpoint.digest == by_hand(tensors)


def test_several_threads_read_what_is_missing(tmp_path, monkeypatch):
    tensors = {"w": torch.arange(20 * LEAF // 4, dtype=torch.int32), **made()}
    path = folder(tmp_path / "m", tensors)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    checkpoint = Checkpoint(path)
    digest, read = without_reading(checkpoint, monkeypatch)
    assert digest == by_hand(tensors) and len(read) > 3
    again = Checkpoint(path)
    os.truncate(path / "model.safetensors", 5)
    with pytest.raises(CheckpointError, match="has changed on disk"):
        again.digest


def test_a_file_that_changes_after_it_was_read_is_told(tmp_path):
    path = folder(tmp_path / "m", {"w": torch.ones(300)})
    checkpoint = Checkpoint(path)
    checkpoint.gather_digest()
    checkpoint["w"]
    os.utime(path / "model.safetensors", ns=(5, 5))
    with pytest.raises(CheckpointError, match="has changed on disk since it was opened"):
        checkpoint.digest


def test_an_open_file_gives_room_for_whole_leaves_only(tmp_path):
    checkpoint = Checkpoint(folder(tmp_path / "m", made()))
    name = "model.layers.0.w"  # three leaves and a rest of bfloat16
    with ExitStack() as files:

        def leaves(start, stop):
            found = checkpoint.in_file(name, start, stop, files).leaves
            return None if found is None else len(found)

        size, leaf = checkpoint.info(name).numel, LEAF // 2
        assert leaves(0, size) is None  # nobody gathers
        checkpoint.gather_digest()
        assert (leaves(0, size), leaves(0, leaf), leaves(leaf, 3 * leaf)) == (4, 1, 2)
        assert leaves(1, size) is leaves(0, leaf + 1) is None
        checkpoint[name]
        assert leaves(0, size) is None  # they are known


# ------------------------------------------------------------------------------------------ views


def test_views_gather_for_the_files_below(tmp_path, monkeypatch):
    below = Checkpoint(
        folder(tmp_path / "m", {f"model.layers.{k}.w": torch.ones(9, 7) * k for k in range(3)})
    )
    direct = Checkpoint(tmp_path / "m").digest
    names = [f"model.layers.{k}.w" for k in (2, 0, 1, 1)]
    stacked = Stacked(
        below, {f"model.layers.{k}.w": (below, name) for k, name in enumerate(names)}, {}
    )
    stacked.gather_digest()
    for name in stacked:
        stacked[name]
    assert without_reading(stacked, monkeypatch) == (direct, [])

    below = Checkpoint(tmp_path / "m")
    layout = Layout.of(np.zeros(9, np.int64), np.arange(9)[::-1])
    table = "model.layers.1.w"
    arranged = Arranged(below, layout, {table: (torch.float32, [(below, table)])})
    arranged.gather_digest()
    assert torch.equal(arranged[table], below[table].flip(0))
    for name in arranged:
        arranged[name]
    digest, read = without_reading(arranged, monkeypatch)
    # Single rows of the table are less than its one leaf; all else was read whole.
    assert digest == direct and {name for name, *_ in read} <= {table}


def test_a_vector_of_weights_in_memory_has_no_digest():
    vector = DistributionVector("a", {"w": torch.ones(3)}, {"w": torch.zeros(3)})
    vector.gather_digest()
    assert (vector.digest, vector.sampled_digest, vector.identity) == ("", "", "")
    assert Digested().digest == ""


def test_combined_digests_tell_parts_and_their_order_apart():
    given_ = [("a", "b"), ("b", "a"), ("a b",), ("a", "b", ""), ()]
    assert len({combined(*parts) for parts in given_}) == len(given_)
    assert all(len(combined(*parts)) == DIGITS for parts in given_)


def test_two_fine_tunes_that_differ_in_one_element_of_a_norm(tmp_path):
    """The reported case: between the samples of the earlier digest, a norm of 4 KB is not seen."""
    tensors = {f"model.layers.{k}.w": torch.ones(64, 2**12) for k in range(5)}
    tensors["model.layers.2.norm"] = torch.ones(1000)
    content = bytearray(save(tensors))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "model.safetensors").write_bytes(content)
    one = Checkpoint(tmp_path / "one")
    at = one.info("model.layers.2.norm").start + 4 * 500
    content[at] ^= 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(content)
    other = Checkpoint(tmp_path / "other")
    assert one.sampled_digest == other.sampled_digest and one.digest != other.digest
