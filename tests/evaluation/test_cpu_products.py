"""Matrix products on a CPU: exact up to one rounding, never in a dtype it has no instructions for, interruptible."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from evaluation import cpu_products
from evaluation.cpu_products import ROWS, CpuProducts
from evaluation.errors import Stopped

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for either dtype, as this one may be or not."""
    monkeypatch.setattr(cpu_products, "_FAST", dict.fromkeys(HALVES, False))


class Seen(TorchDispatchMode):
    """Notes the dtype of the factors of each product that reaches torch's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if any(part in name for part in ("mm", "linear_pointwise", "aten::linear", "aten::matmul")):
            self.dtypes += [part.dtype for part in args if isinstance(part, torch.Tensor)]
        return func(*args, **(kwargs or {}))


def normal(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


PRODUCTS: dict[str, Callable[[torch.dtype], tuple[Any, torch.Tensor]]] = {
    "linear": lambda d: (
        lambda x: functional.linear(x, normal(37, 48, dtype=x.dtype), normal(37, dtype=x.dtype)),
        normal(2, ROWS, 48, dtype=d),
    ),
    "linear in pieces": lambda d: (
        lambda x: functional.linear(x, normal(301, 48, dtype=x.dtype), normal(301, dtype=x.dtype)),
        normal(2, ROWS, 48, dtype=d),
    ),
    "linear by name": lambda d: (
        lambda x: functional.linear(input=x, weight=normal(37, 48, dtype=x.dtype)),
        normal(ROWS, 48, dtype=d),
    ),
    "linear to one number": lambda d: (
        lambda x: functional.linear(x, normal(48, dtype=x.dtype)),
        normal(ROWS, 48, dtype=d),
    ),
    "addmm": lambda d: (
        lambda x: torch.addmm(normal(37, dtype=x.dtype), x, normal(48, 37, dtype=x.dtype)),
        normal(ROWS, 48, dtype=d),
    ),
    "bmm": lambda d: (
        lambda x: torch.bmm(x, normal(3, 48, 5, dtype=x.dtype)),
        normal(3, ROWS, 48, dtype=d),
    ),
    "matmul": lambda d: (
        lambda x: x @ normal(48, 37, dtype=x.dtype),
        normal(ROWS, 48, dtype=d),
    ),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", PRODUCTS)
def test_a_product_is_that_of_float64_rounded_once(
    kind: str, dtype: torch.dtype, without: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_products, "PIECE", 48 * 100)
    product, rows = PRODUCTS[kind](dtype)
    with torch.inference_mode(), CpuProducts():
        got = product(rows)
    # Factors drawn in the dtype and widened: the exact sum of the very same numbers.
    wide = torch.float64
    original = normal

    def widened(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return original(*shape, dtype=rows.dtype).to(wide)

    monkeypatch.setitem(globals(), "normal", widened)
    exact = product(rows.to(wide))
    assert got.dtype is dtype and got.shape == exact.shape
    # Half a unit in the last place for the rounding, and float32's error of the sum.
    unit = torch.finfo(dtype).eps
    assert ((got.double() - exact).abs() <= 0.5 * unit * exact.abs() + 1e-4).all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "gemma2", "phi", "qwen3_moe"])
def test_no_product_of_a_model_is_left_in_a_dtype_without_instructions(
    family: str, dtype: torch.dtype, build: Callable[..., Any], without: None
) -> None:
    # torch takes products of groups only in multiples of 16 bytes.
    wide = {"hidden_size": 48, "moe_intermediate_size": 40} if family == "qwen3_moe" else {}
    module = build(family, **wide).to(dtype)
    ids = torch.arange(3, 3 + 3 * ROWS).view(3, ROWS)
    with torch.inference_mode(), Seen() as plain:
        expected = module(input_ids=ids, use_cache=False).logits
    assert dtype in plain.dtypes, "the law would hold for any code"
    with torch.inference_mode(), Seen() as seen, CpuProducts():
        got = module(input_ids=ids, use_cache=False).logits
    assert dtype not in seen.dtypes and torch.float32 in seen.dtypes
    error = (got.float() - expected.float()).norm() / expected.float().norm()
    assert got.dtype is dtype and error < 16 * torch.finfo(dtype).eps


def test_a_few_rows_stay_as_they_are_because_converting_the_weights_takes_longer(
    without: None,
) -> None:
    weight = normal(37, 48, dtype=torch.bfloat16)
    with torch.inference_mode(), Seen() as seen, CpuProducts():
        functional.linear(normal(ROWS - 1, 48, dtype=torch.bfloat16), weight)
    assert set(seen.dtypes) == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_gradients_are_those_of_the_plain_product(dtype: torch.dtype, without: None) -> None:
    rows, first, second = (normal(*s, dtype=dtype) for s in ((32, 48), (48, 48), (48, 48)))

    def gradients() -> list[torch.Tensor]:
        leaves = [part.clone().requires_grad_() for part in (rows, first, second)]
        # Two layers of one size: the second must not write over what the first needs.
        hidden = functional.linear(functional.linear(leaves[0], leaves[1]) / 7, leaves[2]) / 7
        hidden.float().square().sum().backward()
        return [leaf.grad.double() for leaf in leaves if leaf.grad is not None]

    expected = gradients()
    with CpuProducts():
        got = gradients()
    assert len(got) == 3
    for one, other in zip(got, expected, strict=True):
        assert (one - other).norm() <= 8 * torch.finfo(dtype).eps * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_the_gradient_of_an_input_alone_is_that_of_the_plain_product(
    dtype: torch.dtype, without: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_products, "PIECE", 48 * 10)
    rows, weight, bias = (normal(*s, dtype=dtype) for s in ((2, ROWS, 48), (37, 48), (37,)))
    toward = normal(2, ROWS, 37, dtype=dtype)
    with torch.inference_mode(), CpuProducts():
        output = functional.linear(rows, weight, bias)
    leaf, asked = rows.clone().requires_grad_(), 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    with Seen() as seen, CpuProducts(count):
        got = functional.linear(leaf, weight, bias)
        got.backward(toward)
    # The same bits as without gradients, and it may be stopped on the way back.
    assert got.equal(output) and asked == 2
    assert leaf.grad is not None and leaf.grad.dtype is dtype
    exact = toward.double() @ weight.double()
    unit = torch.finfo(dtype).eps
    assert ((leaf.grad.double() - exact).abs() <= 0.5 * unit * exact.abs() + 1e-4).all()
    assert set(seen.dtypes) == {torch.float32}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_attention_is_as_it_was_and_its_gradient_is_computed_in_float32(
    dtype: torch.dtype, masked: bool, without: None
) -> None:
    query, key, value = (normal(2, 3, length, 8, dtype=dtype) for length in (17, 19, 19))
    toward = normal(2, 3, 17, 8, dtype=dtype)
    mask = normal(17, 19, dtype=dtype) if masked else None
    attention = functional.scaled_dot_product_attention

    def gradients(kind: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
        leaves = [part.to(kind).requires_grad_() for part in (query, key, value)]
        of = None if mask is None else mask.to(kind)
        output = attention(*leaves, attn_mask=of)
        return output, list(torch.autograd.grad(output, leaves, toward.to(kind)))

    plain, _ = gradients(dtype)
    _, exact = gradients(torch.float64)
    with CpuProducts():
        output, got = gradients(dtype)
    assert output.equal(plain)
    for one, other in zip(got, exact, strict=True):
        assert one.dtype is dtype
        error = (one.double() - other).abs()
        assert (error <= 0.51 * torch.finfo(dtype).eps * other.abs() + 1e-5).all()


def test_a_model_stops_before_the_next_product(build: Callable[..., Any]) -> None:
    module, asked = build("llama"), 0

    def stop_at_the_third() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    with pytest.raises(Stopped), torch.inference_mode(), CpuProducts(stop_at_the_third):
        module(input_ids=torch.arange(3, 20)[None], use_cache=False)
    assert asked == 3
