"""Merging on a device: it has the CPU's bits, overwrites nothing, and reports what does not fit.

The device is the CPU, by the same code as an accelerator, and also an accelerator if torch finds
one. Streams and events, which only an accelerator has, are played by objects that record the order
of the calls.
"""

import re
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from merging import Checkpoint, DistributionVector, LiveModel, Recipe, export, merge, open_vector
from merging.engine import accelerator as module
from merging.engine.accelerator import Accelerator, list_accelerators, open_accelerator
from merging.engine.loop import spans
from merging.engine.tasks import tasks
from merging.errors import DeviceError
from merging.live.live_model import resolve
from merging.methods import _contract
from merging.methods._values import Site
from merging.outputs.vector_folder import save_vector
from merging.recipe import ModelEntry

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
THERE = [name for name in _contract.names() if _contract.load(name).on_device]
SUMS = {
    "task_arithmetic": {"normalize": True, "lambda": 0.7},
    "linear": {},
    "lines": {"alpha": 0.5, "beta": 0.9},
    "metagpt": {"lambda": 1.3},
    "passthrough": {"scale": 0.3},
}
"""Weighted sums with parameters that divide and multiply."""
SINGULAR = {"iso_c": {}, "iso_cts": {"common": 0.5}, "tsv": {"lambda": 0.7}}
ATTENTION = [f"model.layers.{layer}.self_attn.{side}_proj" for layer in (0, 2) for side in "qkv"]


def place(device, block=53):
    """Small blocks: most tensors take several, and a matrix's blocks do not end at its rows."""
    return Accelerator(torch.device(device, 0) if device == "cuda" else torch.device(device), block)


def recipe_of(name, models, given, **more):
    sources = tuple(
        ModelEntry(
            one, one, {"weight": 0.3 + 0.4 * number} if _contract.load(name).weighted else {}
        )
        for number, one in enumerate(models)
    )
    return Recipe(base="base", models=sources, method=name, parameters=given, **more)


def computed(recipe, base, vectors, on):
    """Every tensor of the result, as export computes it."""
    results = {}
    for task in tasks(recipe, base, vectors):
        out = on.memory(task.numel * task.out_dtype.itemsize).view(task.out_dtype)
        for start, stop in spans(task, on.most):
            on.compute(task, base, vectors, start, out[start:stop])
        results[task.name] = out.view(task.shape)
    return results


# ------------------------------------------------------------------------------------- which device


class TestNames:
    def test_the_cpu_is_no_accelerator(self):
        assert open_accelerator("cpu") is None

    @pytest.mark.parametrize(
        "name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "mps", "meta", "", "cuda:0\n"]
    )
    def test_a_name_that_is_none_is_refused_with_those_that_are(self, name):
        with pytest.raises(DeviceError) as caught:
            open_accelerator(name)
        assert str(caught.value).startswith(
            f"device {name!r} is unknown, expected cpu, cuda or cuda:N. "
        )
        assert "torch finds cpu" in str(caught.value)

    def test_a_device_that_is_not_there_is_refused_with_the_next_step(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", None)
        monkeypatch.setattr(torch.version, "hip", None)
        with pytest.raises(DeviceError) as caught:
            open_accelerator("cuda")
        assert str(caught.value) == (
            f"device 'cuda' is not available: torch {torch.__version__} finds cpu, because it is a "
            "build without CUDA. Give cpu, or install a build with CUDA."
        )

    def test_of_several_the_number_counts(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(module, "Accelerator", lambda device: device)
        assert list_accelerators() == {"cuda:0": "card 0", "cuda:1": "card 1"}
        assert open_accelerator("cuda") == torch.device("cuda", 0)
        assert open_accelerator("cuda:1") == torch.device("cuda", 1)
        message = (
            r"device 'cuda:2' is not available: torch \S+ finds cpu, cuda:0 \(card 0\), "
            r"cuda:1 \(card 1\). Give one"
        )
        with pytest.raises(DeviceError, match=message):
            open_accelerator("cuda:2")

    @CUDA
    def test_the_first_device_is_meant_where_no_number_is_given(self):
        assert open_accelerator("cuda").device == torch.device("cuda", 0)


# --------------------------------------------------------------------------------------------- laws


def test_which_methods_run_on_a_device_and_each_is_tested_here():
    assert set(THERE) == set(SUMS) | set(SINGULAR)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
def test_a_weighted_sum_has_the_bits_of_the_cpu(device, name, dtype, llama, tuned, bits):
    base = llama(dtype=dtype) | {
        "steps": torch.tensor([7]),
        "empty": torch.empty(0, 7, dtype=dtype),
    }
    count = min(3, _contract.load(name).vectors[1] or 3)
    vectors = {f"v{i}": DistributionVector(f"v{i}", base, tuned(base, i)) for i in range(count)}
    for out_dtype in (None, "bfloat16"):
        recipe = recipe_of(name, vectors, SUMS[name], out_dtype=out_dtype)
        wanted, results = (
            dict(merge(recipe, base, vectors)),
            computed(recipe, base, vectors, place(device)),
        )
        assert all(bits(results[key].cpu(), wanted[key]) for key in wanted)
        assert not bits(
            wanted["lm_head.weight"], base["lm_head.weight"].to(wanted["lm_head.weight"].dtype)
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_methods_of_singular_vectors_agree(device, name, dtype, llama, tuned):
    base = llama(dtype=dtype)
    vectors = {f"v{i}": DistributionVector(f"v{i}", base, tuned(base, i)) for i in range(3)}
    recipe = recipe_of(name, vectors, SINGULAR[name])
    wanted, results = (
        dict(merge(recipe, base, vectors)),
        computed(recipe, base, vectors, place(device)),
    )
    for key, value in wanted.items():
        exact = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(results[key].cpu(), value, **exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["task_arithmetic", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_kind_of_vector_and_of_mapping(
    device, name, dtype, tmp_path, llama, tuned, adapter, write, bits
):
    """Vectors in files, in memory, on the device, of adapters, saved, and on another base."""
    weights = llama(dtype=dtype)
    base = Checkpoint(write(tmp_path / "base", weights))
    saved = DistributionVector(
        "saved", base, Checkpoint(write(tmp_path / "tuned", tuned(weights, 4)))
    )
    save_vector(saved, tmp_path / "saved")
    paths = [
        write(tmp_path / "files", tuned(weights, 1)),
        adapter(tmp_path / "lora", weights, ATTENTION),
        adapter(tmp_path / "more", weights, ATTENTION[:4], rank=5, seed=1),
    ]
    vectors = {path.name: open_vector(path, base) for path in [*paths, tmp_path / "saved"]}
    there = {key: value.to(device) for key, value in tuned(weights, 2).items()}
    vectors["memory"] = DistributionVector("memory", base, tuned(weights, 3))
    vectors["there"] = DistributionVector("there", base, there)
    vectors["elsewhere"] = DistributionVector(
        "elsewhere", llama(5, dtype=dtype), tuned(llama(5, dtype=dtype), 5)
    )
    recipe = recipe_of(name, vectors, {"normalize": True})
    wanted = dict(merge(recipe, base, vectors))
    for block in (7, 53, 2**20):
        results = computed(recipe, base, vectors, place(device, block))
        assert all(bits(results[key].cpu(), wanted[key]) for key in wanted), block


@pytest.mark.parametrize("device", DEVICES)
def test_by_hand_with_a_vector_of_another_base(device):
    """Δa = 12 − 10 on a base of its own, Δb = 5 − 1: 1 + 0.5·2 + 0.25·4 = 3."""
    base, other = {"w": torch.tensor([1.0])}, {"w": torch.tensor([10.0])}
    vectors = {
        "a": DistributionVector("a", other, {"w": torch.tensor([12.0])}),
        "b": DistributionVector("b", base, {"w": torch.tensor([5.0])}),
    }
    recipe = Recipe.compose("base", {"a": "a", "b": "b"}, {"a": 0.5, "b": 0.25})
    assert computed(recipe, base, vectors, place(device))["w"].tolist() == [3.0]
    assert dict(merge(recipe, base, vectors))["w"].tolist() == [3.0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("threads", [1, 3])
def test_an_export_writes_the_same_bytes(device, rounding, threads, tmp_path, llama, tuned, write):
    weights = llama()
    base = Checkpoint(write(tmp_path / "base", weights, {"model_type": "llama"}))
    paths = {
        name: write(tmp_path / name, tuned(weights, number))
        for number, name in enumerate(("cot", "sni"))
    }
    recipe = Recipe.compose(
        base.path, paths, {"cot": 0.7, "sni": -0.2}, out_dtype="bfloat16", rounding=rounding
    )
    vectors = {name: open_vector(path, base) for name, path in paths.items()}
    plain = export(recipe, base, vectors, tmp_path / "plain")
    on = place(device)
    there = export(
        recipe, base, vectors, tmp_path / "there", device=on, threads=threads, shard_bytes=3000
    )
    assert all(
        torch.equal(value, Checkpoint(there)[name]) for name, value in Checkpoint(plain).items()
    )
    assert re.fullmatch(rf"computed on {device}(:0)? \(.+\)\.", on.report(recipe.method))
    assert f"\n\nC{on.report(recipe.method)[1:]}\n\n|" in (there / "README.md").read_text()
    assert "omputed on" not in (plain / "README.md").read_text()


def test_what_only_the_cpu_computes_is_computed_there_and_said(
    tmp_path, llama, tuned, write, monkeypatch
):
    weights = llama()
    base = Checkpoint(write(tmp_path / "base", weights))
    path = write(tmp_path / "cot", tuned(weights, 1))
    recipe = Recipe.compose(
        base.path, {"cot": path}, {"cot": 0.7}, method="ties", parameters={"density": 0.5}
    )
    vectors = {"cot": open_vector(path, base)}
    on = place("cpu")
    monkeypatch.setattr(module._Stage, "compute", None)  # nothing goes there
    out = export(recipe, base, vectors, tmp_path / "out", device=on)
    wanted = dict(merge(recipe, base, vectors))
    assert all(torch.equal(value, wanted[name]) for name, value in Checkpoint(out).items())
    said = "omputed on the CPU: ties runs only there, so cpu (the CPU) was not used."
    assert on.report("ties") == f"c{said}" and f"C{said}" in (out / "README.md").read_text()
    results = computed(recipe, base, vectors, on)  # also where it is asked for
    assert all(torch.equal(results[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("name", THERE)
def test_a_method_runs_on_a_device_without_its_numbers_and_divides_by_no_number(name):
    """The device "meta" has no values, and of the CPU's tensors only single numbers mix with it.

    A divisor that is such a number is what CUDA would take the reciprocal of.
    """
    divisors = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "div" in function.__name__:
                divisors.append(
                    args[1].device.type if isinstance(args[1], torch.Tensor) else "a number"
                )
            return function(*args, **(kwargs or {}))

    given = SUMS.get(name, SINGULAR.get(name)) | {"normalize": True}
    known = {param.name for param in _contract.load(name).parameters}
    count = min(3, _contract.load(name).vectors[1] or 3)
    arguments = _contract.load(name).arguments(
        {key: value for key, value in given.items() if key in known}, count
    )
    for shape in ((11, 13), (13,)):
        site = Site("layers.0.w", torch.empty(shape, device="meta"), 0.5)
        with Watch():
            stack = torch.empty(count, *shape, device="meta")
            result = _contract.load(name).combine(stack, torch.rand(count), site, **arguments)
        assert result.device.type == "meta" and result.shape == shape
    assert set(divisors) <= {"meta"}
    assert divisors or name in ("lines", "metagpt", "passthrough")


def test_the_check_itself_sees_what_it_should(monkeypatch):
    """A divisor on the CPU, and a method that sorts with numpy."""
    from merging.methods import linear

    monkeypatch.setattr(linear, "divide", lambda total, divisor: total.div_(divisor))
    with pytest.raises(AssertionError):
        test_a_method_runs_on_a_device_without_its_numbers_and_divides_by_no_number("linear")
    stack, site = torch.empty(3, 13, device="meta"), Site("w", torch.empty(13, device="meta"))
    with pytest.raises(Exception, match="meta"):
        _contract.load("ties").combine(
            stack, torch.rand(3), site, **_contract.load("ties").arguments({"density": 0.5}, 3)
        )


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("name", ["task_arithmetic", "iso_c"])
def test_pinned_memory_does_not_grow_with_tensors_or_vectors(name, llama, tuned, monkeypatch):
    asked = []
    real = module.pinned_memory
    monkeypatch.setattr(
        module, "pinned_memory", lambda nbytes, device: asked.append(nbytes) or real(nbytes, device)
    )
    base = llama()
    vectors = {f"v{i}": DistributionVector(f"v{i}", base, tuned(base, i)) for i in range(5)}
    recipe, on = recipe_of(name, vectors, {}), place("cpu", 53)
    for task in tasks(recipe, base, vectors):
        for start, stop in spans(task, on.most):
            on.compute(task, base, vectors, start, torch.empty(stop - start, dtype=task.out_dtype))
    assert asked == [8 * 53] * 2


@pytest.mark.parametrize("name", ["task_arithmetic", "iso_c"])
def test_what_does_not_fit_is_computed_on_the_cpu_and_reported(
    name, tmp_path, llama, tuned, write, monkeypatch
):
    weights = llama()
    base = Checkpoint(write(tmp_path / "base", weights))
    path = write(tmp_path / "cot", tuned(weights, 1))
    whole = {"outside": True} if name == "iso_c" else {}
    recipe = Recipe.compose(base.path, {"cot": path}, {"cot": 0.7}, method=name, parameters=whole)
    vectors, on, large = {"cot": open_vector(path, base)}, place("cpu", 53), "lm_head.weight"
    wanted = dict(merge(recipe, base, vectors))
    real = module.combine_piece

    def full(task, start, stack):
        if task.name == large:
            out_of_memory()
        return real(task, start, stack)

    monkeypatch.setattr(module, "combine_piece", full)
    out = export(recipe, base, vectors, tmp_path / "out", device=on)
    assert all(torch.equal(value, wanted[key]) for key, value in Checkpoint(out).items())
    last = 31 * 7 % 53  # of an element method the last piece, else the whole
    assert on.spilled == {large: 2 * 4 * (last if name == "task_arithmetic" else 31 * 7)}
    assert on.report(name) == (
        "computed on cpu (the CPU), except for tensors that did not fit in its memory: "
        "lm_head.weight. The CPU computed these. The largest needs 0.00 GB for base and vectors, "
        "plus what the method itself uses. Free memory of the device, or use fewer threads, to "
        "compute all of it there."
    )
    assert on.report(name)[1:] in (out / "README.md").read_text()


@pytest.mark.parametrize("name", ["ties", "task_arithmetic"])
def test_results_may_lie_elsewhere_and_the_cpu_writes_to_its_own_memory(
    name, llama, tuned, monkeypatch
):
    """On "meta" nothing can be written to by address, which is how the compiled loop writes."""
    base = llama()
    vectors = {"a": DistributionVector("a", base, tuned(base, 1))}
    task = tasks(recipe_of(name, vectors, {}), base, vectors)[0]
    if name == "task_arithmetic":
        monkeypatch.setattr(module, "combine_piece", lambda task, start, stack: out_of_memory())
    written, real = [], module.Cpu.compute

    def compute(self, task, base, vectors, start, out):
        written.append(out)
        real(self, task, base, vectors, start, out)

    monkeypatch.setattr(module.Cpu, "compute", compute)
    place("cpu", 1000).compute(task, base, vectors, 0, torch.empty(task.numel, device="meta"))
    assert torch.equal(
        written[0].view(task.shape),
        dict(merge(recipe_of(name, vectors, {}), base, vectors))[task.name],
    )


def out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("device", DEVICES)
def test_results_may_lie_on_the_device(device, llama, tuned, bits):
    base = llama()
    vectors = {"a": DistributionVector("a", base, tuned(base, 1))}
    for name in ("task_arithmetic", "ties"):
        task = tasks(recipe_of(name, vectors, {}), base, vectors)[0]
        out = torch.empty(task.numel, device=device)
        place(device, 1000).compute(task, base, vectors, 0, out)
        assert bits(
            out.cpu().view(task.shape),
            dict(merge(recipe_of(name, vectors, {}), base, vectors))[task.name],
        )


def test_any_other_error_is_not_taken_for_a_lack_of_memory(llama, tuned, monkeypatch):
    base = llama()
    vectors = {"a": DistributionVector("a", base, tuned(base, 1))}

    def broken(task, start, stack):
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(module, "combine_piece", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        computed(recipe_of("task_arithmetic", vectors, {}), base, vectors, place("cpu"))


# -------------------------------------------------------------------------------------------- order


class Recorded(dict):
    """Weights that write down where each of their pieces is read to."""

    def __init__(self, weights, journal):
        super().__init__(weights)
        self.journal = journal

    def block(self, name, start, stop, scratch=None):
        values = self[name].reshape(-1)[start:stop]
        if scratch is None:
            return values
        self.journal.append(("read", scratch.data_ptr()))
        there = scratch[: values.nbytes].view(values.dtype)
        return there.copy_(values)


@pytest.fixture
def journal(monkeypatch):
    """The calls of a CUDA device's streams and events, in order; the device itself is the CPU."""
    written = []
    numbers = iter(range(10**6))

    def make_event():
        number = next(numbers)
        return SimpleNamespace(
            record=lambda stream: written.append(("mark", number)),
            synchronize=lambda: written.append(("wait", number)),
        )

    def make_stream(device):
        return SimpleNamespace(
            wait_stream=lambda other: written.append(("after", other)),
            synchronize=lambda: written.append(("finish", str(device))),
        )

    @contextmanager
    def current(stream):
        written.append(("begin", None))
        yield
        written.append(("end", None))

    monkeypatch.setattr(torch.cuda, "Event", make_event)
    monkeypatch.setattr(torch.cuda, "Stream", make_stream)
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: f"default of {device}")
    monkeypatch.setattr(module, "_InTurn", lambda: module._Stream(torch.device("cpu")))
    return written


def unwaited(journal):
    """Reads into memory of which a copy may still be under way."""
    copying, latest, wrong = {}, None, 0
    for what, which in journal:
        if what == "read":
            wrong += which in copying.values()
            latest = which
        elif what == "mark":
            copying[which] = latest
        elif what == "wait":
            copying.pop(which, None)
        elif what == "finish":
            copying.clear()
    return wrong


def test_nothing_is_read_over_what_is_being_copied(journal, llama, tuned, recipe):
    base = Recorded(llama(), journal)
    vectors = {
        f"v{i}": DistributionVector(f"v{i}", base, Recorded(tuned(base, i), journal))
        for i in range(3)
    }
    task = next(
        one
        for one in tasks(recipe(dict.fromkeys(vectors, 0.5)), base, vectors)
        if one.name == "lm_head.weight"
    )
    on, out = place("cpu"), torch.empty(task.numel)
    for start, stop in spans(task, on.most):
        on.compute(task, base, vectors, start, out[start:stop])
    assert [what for what, _ in journal[:8]] == [
        "after",
        "begin",
        "read",
        "mark",
        "read",
        "mark",
        "wait",
        "read",
    ]
    assert journal[0] == ("after", "default of cpu")
    assert len({which for what, which in journal if what == "read"}) == 2
    assert [what for what, _ in journal].count(
        "read"
    ) == 5 * 4  # five pieces of 217 elements, four inputs
    assert journal[-2:] == [("end", None), ("finish", "cpu")]
    assert unwaited(journal) == 0
    assert unwaited([entry for entry in journal if entry[0] != "wait"]) > 0  # the check can fail
    assert torch.equal(
        out.view(task.shape),
        dict(merge(recipe(dict.fromkeys(vectors, 0.5)), base, vectors))[task.name],
    )


def test_a_stream_is_finished_after_an_error_too(journal, llama, tuned, recipe, monkeypatch):
    base = llama()
    vectors = {"a": DistributionVector("a", base, tuned(base, 1))}
    task = tasks(recipe({"a": 1.0}), base, vectors)[0]

    def broken(task, start, stack):
        raise RuntimeError("stop")

    monkeypatch.setattr(module, "combine_piece", broken)
    with pytest.raises(RuntimeError, match="stop"):
        place("cpu", 1000).compute(task, base, vectors, 0, torch.empty(task.numel))
    assert journal[-1] == ("finish", "cpu")


@CUDA
def test_results_lie_in_pinned_memory():
    assert open_accelerator("cuda").memory(1000).is_pinned()


@CUDA
def test_a_tensor_that_is_too_large_for_the_device_spills(llama, tuned, recipe):
    """The limit is torch's own, of this process."""
    base = {"w": torch.randn(1031, 2053)}
    vectors = {"a": DistributionVector("a", base, {"w": torch.randn(1031, 2053)})}
    made, on = recipe({"a": 0.5}), open_accelerator("cuda")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        results = computed(made, base, vectors, on)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert set(on.spilled) == {"w"} and torch.equal(
        results["w"], dict(merge(made, base, vectors))["w"]
    )


def test_an_export_is_computed_on_the_cpu_if_no_device_is_given(
    monkeypatch, tmp_path, llama, tuned, write
):
    """Without --device the compiled loop stays in use."""
    weights = llama()
    base = Checkpoint(write(tmp_path / "base", weights))
    path = write(tmp_path / "cot", tuned(weights, 1))
    recipe = replace(Recipe.compose(base.path, {"cot": path}, {"cot": 0.7}), seed=1)
    monkeypatch.setattr(module, "_Stage", None)
    export(recipe, base, {"cot": open_vector(path, base)}, tmp_path / "out")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["task_arithmetic", "ties"])
def test_a_live_model_is_composed_there(
    device, name, llama, tuned, recipe, module_of, views_of, bits
):
    base = llama(dtype=torch.bfloat16)
    vectors = {
        one: DistributionVector(one, base, tuned(base, seed)) for seed, one in enumerate("ab")
    }
    held = module_of(base).to(device)
    live = LiveModel(held, base, vectors, views_of(base), device=place(device))
    for omegas in ({"a": 0.3, "b": 0.7}, {"a": 0.3, "b": -1.0}, {"a": 0.0, "b": 0.5}):
        made = recipe(omegas, method=name)
        live.apply(made)
        for tensor, values in merge(made, base, vectors):
            assert bits(resolve(held, live.views[tensor]).cpu(), values), tensor
