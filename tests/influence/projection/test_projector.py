"""Laws of a projection: unbiased, as accurate as the dense one, the same in any order or batch."""

import gc
import subprocess
import sys

import pytest
import torch

from influence.errors import InfluenceError
from influence.projection.projector import Projection, Projector
from plumbing.meter import high_water

KINDS = ("sparse", "rademacher")
SHAPES = {"a.weight": (11, 7), "a.bias": (7,), "b.weight": (3, 5, 2), "scale": ()}


def gradients(examples, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(examples, *shape, dtype=dtype, generator=generator)
        for name, shape in SHAPES.items()
    }


def project(projection, each):
    projector = Projector(projection)
    for name, values in each.items():
        projector.add(name, values)
    return projector.result()


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_parameters_does_not_matter(kind):
    each = gradients(5)
    projection = Projection(kind, 64)
    reverse = dict(reversed(each.items()))
    assert torch.allclose(project(projection, each), project(projection, reverse), atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_of_an_example_does_not_matter(kind):
    each = gradients(37)
    projection = Projection(kind, 64)
    whole = project(projection, each)
    for part in (slice(0, 1), slice(1, 30), slice(30, 37)):
        few = project(projection, {name: values[part] for name, values in each.items()})
        assert torch.allclose(few, whole[part], atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_linear_and_parameters_of_equal_size_have_their_own_numbers(kind):
    value = torch.ones(1, 9, dtype=torch.float64)
    projection = Projection(kind, 64)
    one, other = (project(projection, {name: value}) for name in "vw")
    assert not torch.allclose(one, other)
    assert torch.allclose(
        project(projection, {"v": 2 * value, "w": -3 * value}), 2 * one - 3 * other
    )


def test_another_process_has_the_same_numbers():
    code = """
import torch
from influence.projection.projector import Projection, Projector
for kind in ("sparse", "rademacher"):
    projector = Projector(Projection(kind, 8, seed=5))
    projector.add("w", torch.arange(1.0, 22.0)[None])
    print(projector.result().tolist())
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    each = {"w": torch.arange(1.0, 22.0)[None]}
    here = [str(project(Projection(kind, 8, seed=5), each).tolist()) for kind in KINDS]
    assert other.stdout.splitlines() == here


@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_unbiased(kind):
    """The mean of 500 seeds is within four standard errors of the inner product and the norm."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 50, dtype=torch.float64, generator=generator)
    y += x
    found = torch.stack(
        [
            (pair := project(Projection(kind, 16, seed=seed), {"w": torch.stack([x, y])})) @ pair[0]
            for seed in range(500)
        ]
    )
    error = found.std(0) / len(found) ** 0.5
    assert (error < 0.1 * (x @ x)).all()  # or the bound below would hold for anything
    assert ((found.mean(0) - torch.stack([x @ x, x @ y])).abs() < 4 * error).all()


def errors_of_cosines(vectors, kind, seeds):
    """RMS difference of the cosines of all pairs before and after, over the seeds."""
    pairs = torch.triu_indices(len(vectors), len(vectors), 1).unbind()

    def cosines(values):
        unit = torch.nn.functional.normalize(values.double(), dim=1)
        return (unit @ unit.T)[pairs]

    true = cosines(vectors)
    parts = dict(enumerate(vectors.split(5000, 1)))
    squares = [
        (
            cosines(
                project(Projection(kind, 8192, seed), {f"w{n}": part for n, part in parts.items()})
            )
            - true
        )
        .square()
        .mean()
        for seed in seeds
    ]
    return torch.stack(squares).mean().sqrt().item()


@pytest.mark.slow
def test_cosines_are_as_accurate_as_those_of_the_dense_projection():
    """At d = 8192, over five seeds, on gradients of a linear layer: outer products with outliers."""
    generator = torch.Generator().manual_seed(2)
    inputs, outputs = (torch.randn(32, side, generator=generator) for side in (200, 100))
    inputs[:, 17] *= 50  # one feature that is large in every example, as transformers have
    vectors = torch.einsum("ei,eo->eoi", inputs, outputs).reshape(32, -1)
    vectors += 0.3 * torch.randn(32, 20000, generator=generator)
    sparse, dense = (errors_of_cosines(vectors, kind, range(5)) for kind in KINDS)
    assert sparse <= 1.05 * dense
    assert 0.005 < dense < 0.015  # 1/√8192 is 0.011


def test_memory_beyond_the_gradients_is_less_than_two_gradients_of_one_example():
    size = 8_000_000
    values = torch.ones(2, size)
    project(Projection(), {"w": values[:, :100_000]})  # what is imported and cached once
    gc.collect()
    mark = high_water("cpu")
    before = mark.end(mark.begin())
    token = mark.begin()
    project(Projection(), {"w": values})
    assert mark.end(token) - before < 2 * 4 * size


def test_float32_and_float64_stay():
    for dtype in (torch.float32, torch.float64):
        result = project(Projection(dimension=8), gradients(3, dtype))
        assert (result.dtype, result.shape) == (dtype, (3, 8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "dense"}, "There is no projection 'dense': use sparse or rademacher."),
        ({"dimension": 0}, "to 0 numbers with 4 rows"),
        ({"dimension": 30}, "must be a multiple of the rows. Use 32 numbers."),
    ],
)
def test_a_projection_that_is_not_possible_is_refused(values, message):
    with pytest.raises(InfluenceError, match=message):
        Projection(**values)


def test_gradients_that_do_not_belong_together_are_refused():
    projector = Projector(Projection(dimension=8))
    with pytest.raises(InfluenceError, match="No gradients were added"):
        projector.result()
    projector.add("w", torch.zeros(2, 3))
    with pytest.raises(InfluenceError, match="'w' were added twice"):
        projector.add("w", torch.zeros(2, 3))
    with pytest.raises(InfluenceError, match="'v' are torch.bfloat16"):
        projector.add("v", torch.zeros(2, 3, dtype=torch.bfloat16))
    with pytest.raises(
        InfluenceError, match="'v' are of 3 examples in torch.float32; the parameters before had 2"
    ):
        projector.add("v", torch.zeros(3, 3))
    with pytest.raises(InfluenceError, match="2 examples in torch.float64"):
        projector.add("v", torch.zeros(2, 3, dtype=torch.float64))
