"""What every merge method keeps, whichever it is: the folder is the list, so a new method is tested by being there."""

import inspect
import math
from operator import itemgetter

import jaxtyping
import pytest
import torch

from merging.methods import _contract
from merging.methods._values import Site, Statistic

NAMES = _contract.names()
TAKE_ONE = [name for name in NAMES if _contract.load(name).vectors[0] == 1]
DELTAS = [name for name in NAMES if _contract.load(name).space != "weights"]
ELEMENTWISE = [name for name in NAMES if _contract.load(name).scope == "element"]
SYMMETRIC = [name for name in NAMES if name != "nuslerp"]  # its t is the share of the second
SHAPE = (11, 13)
NEEDED = {"t": 0.25, "alpha": 0.5, "beta": 0.5}
"""Values of parameters that have no default."""
NEUTRAL = {
    "slerp": {"t": 1.0},
    "nearswap": {"t": 10.0},
    "arcee_fusion": None,
    "lines": {"alpha": 1.0, "beta": 0.0},
    "iso_c": None,
    "iso_cts": None,
}
"""Parameters at which one vector at ω = 1 comes out as it is; None where a method never promises that."""
SPARSE = {"density": 0.4, "epsilon": 0.2}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def count(name, wanted=3):
    least, most = _contract.load(name).vectors
    return min(max(least, wanted), most or wanted)


def inputs(name, vectors=3, dtype=torch.float32, seed=0, depth=0.5):
    generator = torch.Generator().manual_seed(seed)
    vectors = count(name, vectors)
    stack = torch.randn(vectors, *SHAPE, generator=generator, dtype=torch.float64) * 0.1
    omegas = torch.rand(vectors, generator=generator, dtype=torch.float64) + 0.25
    base = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    if _contract.load(name).space == "weights":
        stack += base
    known = statistics(name, vectors, SHAPE, dtype, generator)
    site = Site("layers.0.w", base.to(dtype), depth, tuple(range(1, vectors + 1)), known)
    return stack.to(dtype), omegas.to(dtype), site


def statistics(name, vectors, shape, dtype, generator):
    """Of each vector, positive and random, where a method needs them; Gram matrices of matrices only."""
    kind = _contract.load(name).statistics
    if kind is None:
        return ()
    if kind == "gram" and len(shape) != 2:
        return (None,) * vectors
    found = []
    for _ in range(vectors):
        if kind == "gram":
            inputs = torch.randn(3 * shape[1], shape[1], generator=generator)
            found.append(Statistic((inputs.T @ inputs / len(inputs)).to(dtype)))
        else:
            values = torch.rand(shape, generator=generator) + 0.05
            found.append(Statistic(values.to(dtype), float(values.norm())))
    return tuple(found)


def changed(site, change):
    """The site with something done to the values of its statistics."""
    return site._replace(
        statistics=tuple(one._replace(values=change(one.values)) for one in site.statistics)
    )


def combined(name, stack, omegas, site, **given):
    """As the engine calls it, on a stack of the method's own."""
    known = {param.name: param for param in _contract.load(name).parameters}
    needed = {
        key: value for key, value in NEEDED.items() if key in known and known[key].default is None
    }
    arguments = _contract.load(name).arguments(needed | given, len(stack))
    return _contract.load(name).combine(stack.clone(), omegas, site, **arguments)


def sparse(name):
    """Parameters at which a method that drops entries does."""
    return {
        key: value
        for key, value in SPARSE.items()
        if key in {param.name for param in _contract.load(name).parameters}
    }


def test_there_are_methods():
    assert {"task_arithmetic", "linear", "ties", "dare_ties", "slerp"} <= set(NAMES)


def test_shapes_in_signatures_are_checked_while_tests_run():
    """By jaxtyping and beartype, which pyproject.toml turns on: three vectors and two ω do not belong together."""
    stack, omegas, site = inputs("task_arithmetic")
    with pytest.raises(jaxtyping.TypeCheckError):
        _contract.load("task_arithmetic").combine(stack, omegas[:2], site)


def test_declares_what_users_read(name):
    method = _contract.load(name)
    assert method.paper.startswith("https://") and method.formula
    assert method.space in ("deltas", "weights", "either") and method.scope in ("element", "tensor")
    assert method.base_role in ("origin", "optional", "unused", "operand", "vector")
    assert len(inspect.getdoc(method.combine)) > 30
    for param in method.parameters:
        assert param.help and param.type in (bool, int, float, str), param
        assert param.default is None or isinstance(param.default, param.type)
        assert not param.choices or param.default in param.choices
        if param.type in (int, float):
            assert math.isfinite(param.low) and math.isfinite(param.high), (
                f"{param.name} has no Range"
            )
            assert param.default is None or param.low <= param.default <= param.high


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gives_the_shape_and_dtype_it_was_given(name, dtype):
    stack, omegas, site = inputs(name, dtype=dtype)
    found = combined(name, stack, omegas, site, **sparse(name))
    assert found.shape == SHAPE and found.dtype == dtype and torch.isfinite(found).all()


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 1), (5, 1), (2, 3, 5)])
def test_works_on_tensors_of_any_rank(name, shape):
    generator = torch.Generator().manual_seed(3)
    stack = torch.randn(count(name), *shape, generator=generator)
    known = statistics(name, len(stack), shape, torch.float32, generator)
    site = Site("w", torch.randn(shape, generator=generator), None, tuple(range(len(stack))), known)
    found = combined(name, stack, torch.ones(len(stack)), site, **sparse(name))
    assert found.shape == shape and torch.isfinite(found).all()


def test_is_deterministic_and_touches_only_its_stack(name):
    stack, omegas, site = inputs(name)
    first = combined(name, stack, omegas, site, **sparse(name)).clone()
    assert torch.equal(combined(name, stack, omegas, site, **sparse(name)), first)
    fresh = inputs(name)
    assert torch.equal(omegas, fresh[1]) and torch.equal(site.base, fresh[2].base)
    for one, untouched in zip(site.statistics, fresh[2].statistics, strict=True):
        assert torch.equal(one.values, untouched.values)


def test_threads_do_not_change_the_bits(name):
    stack, omegas, site = inputs(name)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(combined(name, stack, omegas, site, **sparse(name)).clone())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("name", [name for name in TAKE_ONE if NEUTRAL.get(name, {}) is not None])
def test_one_vector_at_one_is_that_vector(name):
    given = NEUTRAL.get(name, {})
    stack, _, site = inputs(name, vectors=1)
    torch.testing.assert_close(
        combined(name, stack, torch.ones(1), site, **given), stack[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", DELTAS)
def test_vectors_of_zeros_change_nothing(name):
    stack, omegas, site = inputs(name)
    assert not combined(name, torch.zeros_like(stack), omegas, site).any()


@pytest.mark.parametrize("name", SYMMETRIC)
def test_the_order_of_the_vectors_does_not_count(name):
    """Up to rounding; each vector keeps its seed and its ω."""
    stack, omegas, site = inputs(name, dtype=torch.float64)
    turned = torch.arange(len(stack) - 1, -1, -1)
    known = tuple(site.statistics[i] for i in turned) if site.statistics else ()
    other = site._replace(seeds=tuple(site.seeds[i] for i in turned), statistics=known)
    one = combined(name, stack, omegas, site, **sparse(name)).clone()
    torch.testing.assert_close(
        combined(name, stack[turned], omegas[turned], other, **sparse(name)), one
    )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_element_method_may_be_cut_anywhere(name):
    """The result of a block is the block of the result, at lengths that a vectorised loop does not divide."""
    stack, omegas, site = inputs(name)
    flat, base = stack.flatten(1), site.base.flatten()
    site = changed(site, torch.flatten)
    whole = combined(name, flat, omegas, site._replace(base=base)).clone()
    for cut in (1, 7, 31, 97, 142):
        parts = [
            combined(
                name,
                flat[:, a:b],
                omegas,
                changed(site, itemgetter(slice(a, b)))._replace(base=base[a:b]),
            ).clone()
            for a, b in ((0, cut), (cut, flat.shape[1]))
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_float32_agrees_with_float64(name):
    stack, omegas, site = inputs(name, dtype=torch.float64)
    # on values that float32 holds, so that selections are made among the same magnitudes
    stack, omegas, base = stack.float(), omegas.float(), site.base.float()
    exact_site = changed(site, torch.Tensor.double)._replace(base=base.double())
    exact = combined(name, stack.double(), omegas.double(), exact_site, **sparse(name))
    rounded = combined(
        name, stack, omegas, changed(site, torch.Tensor.float)._replace(base=base), **sparse(name)
    )
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-4, atol=2e-6)


RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


@pytest.mark.parametrize("name", RANDOM)
def test_a_mask_depends_on_its_own_seed_only(name):
    stack, _, site = inputs(name)
    alone = [
        combined(
            name,
            stack[i : i + 1],
            torch.ones(1),
            site._replace(seeds=site.seeds[i : i + 1]),
            **sparse(name),
        ).clone()
        for i in range(len(stack))
    ]
    other = combined(name, stack[:1], torch.ones(1), site._replace(seeds=(99,)), **sparse(name))
    assert not torch.equal(alone[0], other)
    if name.endswith("linear"):
        together = combined(name, stack, torch.ones(len(stack)), site, **sparse(name))
        torch.testing.assert_close(together, sum(alone))


@pytest.mark.parametrize("name", ["dare_linear", "della_linear"])
def test_the_mean_over_seeds_is_the_dense_formula(name):
    """With the paper's rescaling the expectation is exact; 400 seeds leave 5 standard errors of room.

    DELLA rescales by the density where an entry's own probability differs, so its law is of the entries of mean rank:
    the expectation of entry j is p_j / density times it, which is compared here.
    """
    stack, _, site = inputs(name, vectors=1, dtype=torch.float64)
    density, epsilon = 0.4, 0.2
    given = {"density": density, "rescale_by": "density"} | (
        {"epsilon": epsilon} if "della" in name else {}
    )
    one = torch.ones(1, dtype=torch.float64)
    drawn = torch.stack(
        [combined(name, stack, one, site._replace(seeds=(seed,)), **given) for seed in range(400)]
    )
    share = torch.full(SHAPE, density, dtype=torch.float64)
    if "della" in name:
        ranks = stack[0].abs().argsort(1).argsort(1) / (SHAPE[1] - 1)
        share = density - epsilon + 2 * epsilon * ranks
    wanted = stack[0] * share / density
    error = (stack[0] / density).abs() * (share * (1 - share) / 400).sqrt()
    assert ((drawn.mean(0) - wanted).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("name", RANDOM)
def test_at_density_1_nothing_is_random(name):
    stack, omegas, site = inputs(name)
    one = combined(name, stack, omegas, site).clone()
    assert torch.equal(combined(name, stack, omegas, site._replace(seeds=(7, 8, 9))), one)


def test_linear_says_whether_the_result_is_a_sum_with_factors_that_are_known_beforehand(name):
    """The factors are what the method makes of unit vectors, in the middle of the layers."""
    stack, omegas, site = inputs(name, dtype=torch.float64)
    units = torch.eye(len(stack), dtype=torch.float64)
    # Statistics of the units' own shape would be other statistics: without any it is an average.
    plain = site._replace(base=units[0], statistics=(None,) * len(stack) if site.statistics else ())
    try:
        factors = combined(name, units, omegas, plain, **sparse(name))
    except (IndexError, RuntimeError):  # a method of matrices
        factors = torch.full((len(stack),), math.nan)
    found = combined(name, stack, omegas, site, **sparse(name))
    is_sum = torch.allclose(found, torch.einsum("i,i...->...", factors, stack), rtol=1e-9)
    assert is_sum == _contract.load(name).linear
