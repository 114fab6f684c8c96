"""What every merge method keeps, whichever it is: the folder is the list, so a new method is tested by being there."""

import inspect

import pytest
import torch

from merging import method
from merging.method import Site

NAMES = method.names()
SHAPE = (6, 10)


@pytest.fixture(params=NAMES)
def module(request):
    return method.load(request.param)


def inputs(vectors=3, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    stack = torch.randn(vectors, *SHAPE, generator=generator, dtype=dtype) * 0.1
    omegas = torch.rand(vectors, generator=generator, dtype=dtype) + 0.25
    base = torch.randn(SHAPE, generator=generator, dtype=dtype)
    return stack, omegas, Site("layers.0.w", base)


def test_there_are_methods():
    assert {"task_arithmetic", "linear"} <= set(NAMES)


def test_declares_what_users_read(module):
    assert module.PAPER.startswith("https://arxiv.org/abs/")
    assert module.FORMULA and module.SPACE in ("deltas", "weights") and module.SCOPE in ("element", "tensor")
    assert len(inspect.getdoc(module.combine)) > 40
    for param in method.parameters(module.__name__.rsplit(".", 1)[1]):
        assert param.help, param
        assert param.type in (bool, int, float) and isinstance(param.default, param.type)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gives_the_shape_and_dtype_it_was_given(module, dtype):
    stack, omegas, site = inputs(dtype=dtype)
    found = module.combine(stack, omegas, site)
    assert found.shape == SHAPE and found.dtype == dtype and torch.isfinite(found).all()


def test_is_deterministic_and_leaves_its_inputs(module):
    stack, omegas, site = inputs()
    first = module.combine(stack, omegas, site).clone()
    assert torch.equal(module.combine(stack, omegas, site), first)
    for now, before in zip((stack, omegas, site.base), (*inputs()[:2], inputs()[2].base), strict=True):
        assert torch.equal(now, before)


def test_one_vector_at_one_is_that_vector(module):
    stack, _, site = inputs(vectors=1)
    assert torch.equal(module.combine(stack, torch.ones(1), site), stack[0])


def test_an_element_method_may_be_cut_anywhere(module):
    """The result of a block is the block of the result, at lengths that a vectorised loop does not divide."""
    if module.SCOPE != "element":
        pytest.skip("the whole tensor is needed, and given")
    stack, omegas, site = inputs()
    flat, base = stack.flatten(1), site.base.flatten()
    whole = module.combine(flat, omegas, Site("w", base))
    for cut in (1, 7, 31, 59):
        parts = [
            module.combine(flat[:, a:b].contiguous(), omegas, Site("w", base[a:b])) for a, b in ((0, cut), (cut, 60))
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_float32_agrees_with_float64(module):
    stack, omegas, site = inputs(dtype=torch.float64)
    exact = module.combine(stack, omegas, site)
    rounded = module.combine(stack.float(), omegas.float(), Site(site.name, site.base.float()))
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=1e-7)
