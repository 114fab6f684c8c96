"""Speeds up the matrix products of a model on the CPU, and lets them be interrupted."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from evaluation.errors import Stopped

ROWS = 16
"""Rows of activations from which converting the weights takes less time than a slow product.

Measured with weights of 1536 x 576 in bfloat16 on two cores with AVX2 only: 0.5 ms (as it is) and
0.6 ms (converted) for 4 rows, 1.8 and 0.8 ms for 16, 54 and 8 ms for 512.
"""

PIECE = 2**22
"""The most weights that are converted at once.

They are converted into the same memory each time, because the kernel clears new memory page by
page: for an LM head of 49152 x 576 and 40 rows that makes 32 ms of 86.
"""


class CpuProducts(TorchFunctionMode):
    """Computes matrix products on the CPU faster, in this thread and inside the block only.

    - torch sends float32 products to MKL, which uses half of the vector width on AMD. Here they go
      to oneDNN: on one core (EPYC, AVX-512) 200 instead of 92 GFLOP/s were measured, and a third
      less time for a whole pass.
    - On a CPU without instructions for bfloat16 or float16, torch computes products of that dtype
      in a plain loop. Here their factors are converted to float32, which is exact, and the result
      is rounded to the dtype once, as such instructions do.
    - A linear layer whose weight needs no gradient is computed in both ways in the backward pass
      too, which then keeps no converted copy of the weight.
    - The backward pass of attention in such a dtype is computed in float32: in bfloat16 it took
      eleven times as long as attention itself.

    So the result differs in the rounding of sums only.

    Args:
        should_stop: asked before each product, of a linear layer whose weight needs no gradient in
            the backward pass too; by default it is never stopped.

    Raises:
        Stopped: `should_stop` returned True, out of the call of the model or the backward pass.
    """

    def __init__(self, should_stop: Callable[[], bool] | None = None) -> None:
        super().__init__()
        self._should_stop = should_stop
        self._scratch = torch.empty(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is linear and not kwargs and _is_frozen(*args):
            result: Tensor = _FrozenLinear.apply(self, *args)  # type: ignore[no-untyped-call]
            return result
        if func is scaled_dot_product_attention and _is_slow_attention(args, kwargs):
            attended: Tensor = _SlowAttention.apply(kwargs, *args)  # type: ignore[no-untyped-call]
            return attended
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        self.check()
        return self.product(func, args, kwargs)

    def check(self) -> None:
        """Raises Stopped if it is time to stop."""
        if self._should_stop is not None and self._should_stop():
            raise Stopped("stopped inside the model")

    def product(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Returns one of the products, with a gradient only if gradients are switched on."""
        dtype = _slow(args)
        if dtype is None or kwargs.get("out") is not None or kwargs.get("out_dtype") is not None:
            return _product(func, args, kwargs)
        # Autograd keeps the factors of a product, so they may not be overwritten by the next.
        if func is linear and len(args) > 1 and args[1].dim() == 2 and not torch.is_grad_enabled():
            return self._linear(*args, **kwargs)
        args = [_wide(part, dtype) for part in args]
        wide: Tensor = _product(func, args, {key: _wide(kwargs[key], dtype) for key in kwargs})
        return wide.to(dtype)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Returns the gradient of a linear layer's input, (…, inputs): gradient @ weight.

        Args:
            gradient: of the layer's output, (…, outputs).
            weight: (outputs, inputs), of the same dtype as the gradient and the result.
        """
        if _slow((gradient, weight)) is None:
            result: Tensor = _product(linear, (gradient, weight.T), {})
            return result
        total = torch.zeros(*gradient.shape[:-1], weight.shape[1])
        wide = gradient.float()
        for start, stop, factor in self._pieces(weight):
            total += _product(linear, (wide[..., start:stop], factor.T), {})
        return total.to(gradient.dtype)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns a linear layer of a dtype that the CPU has no instructions for."""
        result = input.new_empty(*input.shape[:-1], len(weight))
        wide = input.float()
        for start, stop, factor in self._pieces(weight):
            added = None if bias is None else bias[start:stop].float()
            result[..., start:stop] = _product(linear, (wide, factor, added), {})
        return result

    def _pieces(self, weight: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Yields the first row of each piece, the row after its last, and the piece in float32.

        The next piece overwrites it.
        """
        rows = max(1, PIECE // weight.shape[1])
        for start in range(0, len(weight), rows):
            part = weight[start : start + rows]
            if self._scratch.numel() < part.numel():
                self._scratch = torch.empty(part.numel())
            factor = self._scratch[: part.numel()].view(part.shape).copy_(part)
            yield start, start + len(part), factor


class _FrozenLinear(torch.autograd.Function):
    """A linear layer on the CPU of which only the input has a gradient."""

    @staticmethod
    def forward(
        ctx: Any, products: CpuProducts, input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        products.check()
        ctx.products = products
        ctx.save_for_backward(weight)
        result: Tensor = products.product(linear, (input, weight, bias), {})
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.products.check()
        (weight,) = ctx.saved_tensors
        return None, ctx.products.input_gradient(gradients[0], weight), None, None


class _SlowAttention(torch.autograd.Function):
    """Attention whose backward pass is in float32, for a dtype without instructions on the CPU."""

    @staticmethod
    def forward(ctx: Any, settings: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.settings = settings
        ctx.save_for_backward(query, key, value)
        return scaled_dot_product_attention(query, key, value, **settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        settings = dict(ctx.settings)
        if (mask := settings.get("attn_mask")) is not None and mask.is_floating_point():
            settings["attn_mask"] = mask.float()
        wide = [part.detach().float().requires_grad_() for part in ctx.saved_tensors]
        with torch.enable_grad():
            again = scaled_dot_product_attention(*wide, **settings)
        found = torch.autograd.grad(again, wide, gradients[0].float())
        return None, *(gradient.to(gradients[0].dtype) for gradient in found)


def _is_slow_attention(args: Any, kwargs: Any) -> bool:
    """Whether attention has a backward pass, in a dtype that the CPU has no instructions for."""
    mask = kwargs.get("attn_mask")
    return (
        torch.is_grad_enabled()
        and len(args) == 3
        and any(part.requires_grad for part in args)
        and args[0].device.type == "cpu"
        and not _FAST.get(args[0].dtype, True)
        # With dropout the second pass would drop others; a mask may have a gradient of its own.
        and not kwargs.get("dropout_p")
        and not (mask is not None and mask.requires_grad)
    )


def _is_frozen(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a linear layer on the CPU needs the gradient of its input, and no other."""
    return (
        torch.is_grad_enabled()
        and input.requires_grad
        and not weight.requires_grad
        and not (bias is not None and bias.requires_grad)
        and weight.dim() == 2
        and weight.device.type == "cpu"
        and input.dtype == weight.dtype
    )


def _product(func: Any, args: Any, kwargs: Any) -> Any:
    """Returns a product, by oneDNN if it can."""
    if (
        func is linear
        and not kwargs
        and _FUSED is not None
        and not torch.is_grad_enabled()  # it has no gradient
        and _plain(args[0])
        and _plain(args[1])
        and args[1].dim() == 2
    ):
        return _FUSED(args[0], args[1], args[2] if len(args) > 2 else None, "none", [], "")
    return func(*args, **kwargs)


_PRODUCTS = frozenset(
    [
        linear,
        torch.matmul,
        Tensor.matmul,
        Tensor.__matmul__,
        torch.mm,
        Tensor.mm,
        torch.bmm,
        Tensor.bmm,
        torch.addmm,
        torch.baddbmm,
        Tensor.baddbmm,
        torch._grouped_mm,
    ]
)

# The operator that torch.compile uses on CPUs; no public function reaches it. MKL does the work if
# a build of torch lacks it.
_FUSED = None
_FAST = {torch.bfloat16: True, torch.float16: True}
"""Whether the CPU has instructions for products of a dtype."""
if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
    _FUSED = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    # The two questions that torch itself asks before it gives such a product to oneDNN.
    _FAST = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }


def _slow(args: Any) -> torch.dtype | None:
    """Returns the dtype of a product that the CPU has no instructions for; None for another."""
    factors = [part for part in args if isinstance(part, Tensor) and part.dim() > 1]
    first = factors[0] if factors else None
    if first is None or first.device.type != "cpu" or _FAST.get(first.dtype, True):
        return None
    return first.dtype if first.numel() >= ROWS * first.shape[-1] else None


def _wide(part: Any, dtype: torch.dtype) -> Any:
    """Returns an argument in float32 if it is a tensor of the dtype, else as it is."""
    return part.float() if isinstance(part, Tensor) and part.dtype is dtype else part


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is one that the fused operator takes: float32, on the CPU, strided."""
    return (
        tensor.dtype is torch.float32
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
    )
