"""Methods that need lengths and angles of whole tensors give the same in blocks as on the whole."""

import gc
import threading
import weakref

import pytest
import torch

from merging import DistributionVector, merge
from merging.engine import whole_tensors
from merging.engine.tasks import tasks
from merging.inputs.checkpoint import Checkpoint
from merging.methods import _chunks, _span, _survey, sce

SIZE = (17, 31)
METHODS = {
    "model_stock": ("model_stock", 3, {}),
    "multislerp": ("multislerp", 3, {}),
    "nuslerp": ("nuslerp", 2, {}),
    "karcher": ("karcher", 3, {}),
    "slerp": ("slerp", 1, {"t": 0.3}),
    "sce": ("sce", 3, {}),
    "sce of half": ("sce", 3, {"select_topk": 0.5}),
    "sce of next to nothing": ("sce", 3, {"select_topk": 1e-9}),
}
"""Label -> the method, the number of vectors and its parameters."""


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float64], ids=str)
def models(request):
    """A base, and three tunes; two tensors, one of which fits in a chunk."""
    generator = torch.Generator().manual_seed(3)

    def drawn(scale, like=None):
        sizes = {"w": SIZE, "small": (2, 5)}
        return {
            name: (
                torch.randn(size, generator=generator, dtype=torch.float64) * scale
                + (0 if like is None else like[name])
            ).to(request.param)
            for name, size in sizes.items()
        }

    base = drawn(1.0)
    return base, [drawn(0.3, base) for _ in range(3)]


@pytest.fixture
def in_chunks(monkeypatch, pieces):
    """Makes tensors above 40 entries come in blocks, with chunks that no block begins with."""

    def of(chunk=40, block=24, piece=72):
        for module in (_chunks, _span, _survey, sce):
            monkeypatch.setattr(module, "CHUNK", chunk)
        pieces(block, piece)

    return of


def vectors_of(base, tuned, count=3):
    named = {f"v{i}": each for i, each in enumerate(tuned[:count])} | {"base": base}
    return {name: DistributionVector(name, base, each) for name, each in named.items()}


def asked_of(name, recipe):
    method, count, parameters = METHODS[name]
    return recipe({f"v{i}": 0.5 + i for i in range(count)}, method, parameters=parameters)


def merged(name, base, tuned, recipe):
    asked = asked_of(name, recipe)
    return dict(merge(asked, base, vectors_of(base, tuned, METHODS[name][1])))


@pytest.mark.parametrize("name", METHODS)
def test_blocks_have_the_values_of_the_whole(name, models, in_chunks, recipe):
    """They may differ by the rounding of a sum in float64, which shows in no digit of the result."""
    base, tuned = models
    whole = merged(name, base, tuned, recipe)
    in_chunks()
    found = merged(name, base, tuned, recipe)
    vectors = vectors_of(base, tuned, METHODS[name][1])
    large, small = tasks(asked_of(name, recipe), base, vectors)
    assert (large.whole, small.whole) == (False, True)
    assert torch.equal(whole["w"], base["w"]) == ("nothing" in name)
    for key, values in whole.items():
        rounding = torch.finfo(values.dtype).eps if values.dtype != torch.float64 else 1e-13
        torch.testing.assert_close(found[key], values, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", METHODS)
def test_bits_depend_neither_on_blocks_nor_on_files(
    name, models, in_chunks, recipe, bits, write, tmp_path
):
    base, tuned = models
    in_chunks()
    wanted = merged(name, base, tuned, recipe)["w"]
    for sizes in ((40, 7, 7), (40, 1000, 1000)):
        in_chunks(*sizes)
        assert bits(merged(name, base, tuned, recipe)["w"], wanted)
    folders = [write(tmp_path / f"m{i}", each) for i, each in enumerate([base, *tuned])]
    opened = [Checkpoint(folder) for folder in folders]
    assert bits(merged(name, opened[0], opened[1:], recipe)["w"], wanted)


def test_equal_variances_at_the_edge_are_ranked_by_position(in_chunks, recipe, bits):
    """Whole multiples of 3/8, whose means and squares are exact, so that many variances are equal."""
    generator = torch.Generator().manual_seed(5)
    base = {"w": torch.zeros(SIZE)}
    tuned = [
        {"w": torch.randint(-1, 2, SIZE, generator=generator, dtype=torch.int64) * 0.375}
        for _ in range(3)
    ]
    whole = merged("sce of half", base, tuned, recipe)["w"]
    stack = torch.stack([each["w"] for each in tuned]).double()
    varied = (stack - stack.mean(0)).square().sum(0)
    count = int(0.5 * int(varied.count_nonzero()))
    kept = set(varied.flatten().sort(stable=True).indices[-count:].tolist())
    assert set(whole.flatten().nonzero()[:, 0].tolist()) <= kept
    for sizes in ((40, 24, 72), (40, 7, 7), (40, 1000, 1000)):
        in_chunks(*sizes)
        assert bits(merged("sce of half", base, tuned, recipe)["w"], whole)


def test_without_the_compiled_loop_the_values_are_the_same(models, in_chunks, recipe, monkeypatch):
    base, tuned = models
    in_chunks()
    found = merged("model_stock", base, tuned, recipe)["w"]
    monkeypatch.setattr(whole_tensors.kernel, "library", lambda: None)
    torch.testing.assert_close(merged("model_stock", base, tuned, recipe)["w"], found)


def test_a_moved_slider_reads_nothing_again(models, in_chunks, recipe, monkeypatch):
    base, tuned = models
    in_chunks()
    vectors, read = vectors_of(base, tuned), []
    products = whole_tensors._Stored.products
    monkeypatch.setattr(
        whole_tensors._Stored,
        "products",
        lambda chunk, **how: read.append(chunk.start) or products(chunk, **how),
    )
    for omega in (0.5, 0.7):
        asked = recipe({"v0": omega, "v1": 1.0, "v2": 1.0}, "multislerp")
        found = dict(merge(asked, base, vectors))["w"]
    assert sorted(read) == list(range(0, 17 * 31, 40))
    # Without one of them, and with others of the same names, everything is read anew.
    fewer = recipe({"v0": 0.7, "v1": 1.0}, "multislerp")
    dict(merge(fewer, base, {name: vectors[name] for name in ("v0", "v1")}))
    others = {**vectors, "v1": vectors_of(base, tuned[::-1])["v1"]}
    assert len(read) == 2 * 14
    tuned[1] = {name: -values for name, values in tuned[1].items()}
    others = {**vectors, "v1": DistributionVector("v1", base, tuned[1])}
    assert not torch.equal(dict(merge(asked, base, others))["w"], found)
    assert len(read) == 3 * 14


def test_of_each_kind_only_the_last_numbers_are_kept(models, in_chunks, recipe):
    base, tuned = models
    in_chunks()
    vectors = vectors_of(base, tuned)
    for density in (0.3, 0.5, 0.7):
        parameters = {"density": density}
        asked = recipe({"v0": 1.0, "v1": 1.0}, "dare_linear", parameters=parameters)
        dict(merge(asked, base, vectors))
        dict(
            merge(
                recipe({"v0": 1.0, "v1": 1.0}, "sce", parameters={"select_topk": density}),
                base,
                vectors,
            )
        )
    kept = vars(vectors["v0"])["_surveys"]["w"]
    kinds = [survey.key[1] for survey in kept]
    assert len(set(kinds)) == len(kinds) and {"magnitudes", "lengths", "varied"} <= set(kinds)


def test_what_is_kept_does_not_keep_other_vectors(models, in_chunks, recipe):
    base, tuned = models
    in_chunks()
    vectors = vectors_of(base, tuned)
    dict(merge(asked_of("model_stock", recipe), base, vectors))
    other = weakref.ref(vectors.pop("v1"))
    gc.collect()
    assert other() is None


def test_threads_share_the_chunks_and_join_them_once(models, in_chunks, recipe, bits, monkeypatch):
    base, tuned = models
    in_chunks()
    wanted = merged("multislerp", base, tuned, recipe)["w"]
    vectors, asked = vectors_of(base, tuned), asked_of("multislerp", recipe)
    products, barrier, read, found = whole_tensors._Stored.products, threading.Barrier(3), [], []

    def slow(chunk, **how):
        read.append((chunk.start, threading.get_ident()))
        if len(read) <= 3:
            barrier.wait(10)  # each of three threads has a chunk
        return products(chunk, **how)

    monkeypatch.setattr(whole_tensors._Stored, "products", slow)
    threads = [
        threading.Thread(target=lambda: found.append(dict(merge(asked, base, vectors))["w"]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(start for start, _ in read) == list(range(0, 17 * 31, 40))
    assert len({thread for _, thread in read[:3]}) == 3
    assert len(found) == 3 and all(bits(each, wanted) for each in found)


def test_a_fault_is_told_to_all_and_forgotten(models, in_chunks, recipe, monkeypatch):
    base, tuned = models
    in_chunks()
    vectors, asked = vectors_of(base, tuned), asked_of("multislerp", recipe)
    barrier, errors = threading.Barrier(2), []

    def broken(chunk, **how):
        barrier.wait(10)
        raise OSError(f"unreadable at {chunk.start}")

    def attempt():
        try:
            dict(merge(asked, base, vectors))
        except OSError as error:
            errors.append(str(error))

    with monkeypatch.context() as patched:
        patched.setattr(whole_tensors._Stored, "products", broken)
        threads = [threading.Thread(target=attempt) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(errors) == 2 and all("unreadable" in error for error in errors)
    assert "w" in dict(merge(asked, base, vectors))


def test_a_thread_that_waits_is_told_of_the_fault():
    begun, go, errors = threading.Event(), threading.Event(), []
    one = whole_tensors._Survey(("key",), {}, [], 1, list)

    def broken(number, workspace):
        begun.set()
        assert go.wait(10)
        raise OSError("unreadable")

    def attempt():
        try:
            one.result(broken)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join()
    assert len(errors) == 2 and errors[0] is errors[1]


def test_nearly_opposite_vectors_are_read_once_more(models, in_chunks, recipe):
    """The directions of v and −v(1 + tiny) cancel, and only a QR decomposition tells what is left."""
    base, tuned = models
    tuned[1] = {name: 2 * base[name] - (each + 1e-3) for name, each in tuned[0].items()}
    tuned[2] = tuned[0]
    asked = recipe({"v0": 1.0, "v1": 1.0, "v2": 1e-3}, "multislerp")
    whole = dict(merge(asked, base, vectors_of(base, tuned)))["w"]
    in_chunks()
    found = dict(merge(asked, base, vectors_of(base, tuned)))["w"]
    torch.testing.assert_close(found, whole, rtol=1e-2, atol=1e-2)
