"""Geometry in one pass equals a dense float64 computation, and undefined stays undefined."""

import numpy as np
import pytest
import torch

from merging.analysis.geometry import gram_of, measure, square_of
from merging.inputs.vector import DistributionVector

SHAPES = {
    "model.embed_tokens.weight": (13, 7),
    "model.layers.0.mlp.w": (11, 7),
    "model.layers.0.self_attn.w": (7, 7),
    "model.layers.1.mlp.w": (11, 7),
    "model.norm.weight": (7,),
}


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def parts():
    base = weights(0) | {"steps": torch.tensor(3)}
    zero = {name: value.clone() for name, value in base.items()}
    others = {
        name: weights(number) | {"steps": torch.tensor(3)} for number, name in enumerate("ab", 1)
    }
    return base, {
        name: DistributionVector(name, base, tuned)
        for name, tuned in {**others, "zero": zero}.items()
    }


def dense(base, vectors, names):
    return np.stack(
        [
            torch.cat([vector[name].double().flatten() for name in names]).numpy()
            for vector in vectors.values()
        ]
    )


@pytest.mark.parametrize("compiled", [True, False])
def test_equals_a_dense_computation(parts, monkeypatch, compiled):
    base, vectors = parts
    monkeypatch.setattr("merging.analysis.geometry.BLOCK", 17)
    monkeypatch.setattr("merging.analysis.geometry.PIECE", 17)
    if not compiled:
        monkeypatch.setattr("merging.engine.kernel.library", lambda: None)
    seen = []
    found = measure(base, vectors, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (301, 301) and seen == sorted(seen)
    assert found.tensors[0] == "model.embed_tokens.weight" and "steps" not in found.tensors
    assert found.layers == ["embeddings", "0", "1", "norms"]
    np.testing.assert_allclose(
        found.base_squares, [base[name].double().pow(2).sum() for name in found.tensors]
    )
    for group, names in {
        (None, None): list(SHAPES),
        ("0", None): ["model.layers.0.mlp.w", "model.layers.0.self_attn.w"],
        (None, "mlp"): ["model.layers.0.mlp.w", "model.layers.1.mlp.w"],
        ("0", "mlp"): ["model.layers.0.mlp.w"],
    }.items():
        flat = dense(base, vectors, names)
        np.testing.assert_allclose(
            found.gram(layer=group[0], part=group[1]), flat @ flat.T, rtol=1e-6, atol=1e-9
        )
        cosine = found.cosine(*group)
        np.testing.assert_allclose(
            cosine[0, 1], flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
        )


def test_the_cosine_of_a_zero_vector_is_undefined(parts):
    found = measure(*parts)
    cosine = found.cosine()
    assert np.isnan(cosine[2]).all() and np.isnan(cosine[:, 2]).all()
    assert cosine[0, 0] == pytest.approx(1.0)


def test_distances_raw_and_relative(parts):
    base, vectors = parts
    found = measure(base, vectors)
    raw, relative = found.distance(by="part"), found.distance(relative=True, by="part")
    assert raw.rows == ("embeddings", "attention", "mlp", "norms") and raw.columns == (
        "a",
        "b",
        "zero",
    )
    assert (raw.unit, relative.unit) == ("‖Δ‖", "‖Δ‖ / ‖Θ‖")
    delta = vectors["a"]["model.norm.weight"].double().norm().item()
    assert raw.values[3, 0] == pytest.approx(delta)
    assert relative.values[3, 0] == pytest.approx(
        delta / base["model.norm.weight"].double().norm().item()
    )
    assert raw.values[:, 2].tolist() == [0.0] * 4
    assert found.distance(by="model").values.shape == (1, 3) and found.distance(
        by="tensor"
    ).values.shape == (5, 3)


def test_relative_to_a_base_of_zeros_is_undefined():
    base = {"w": torch.zeros(3)}
    found = measure(
        base, {"a": DistributionVector("a", base, {"w": torch.tensor([3.0, 4.0, 0.0])})}
    )
    assert found.distance().values.tolist() == [[5.0]]
    assert np.isnan(found.distance(relative=True).values).all()


def test_layers_of_two_stacks_are_kept_apart():
    base = {"encoder.block.0.w": torch.ones(2), "decoder.block.0.w": torch.ones(2)}
    found = measure(
        base,
        {"a": DistributionVector("a", base, {name: value + 1 for name, value in base.items()})},
    )
    assert found.layers == ["decoder.block.0", "encoder.block.0"]


def test_a_tensor_that_a_vector_leaves_alone_counts_as_zero():
    """An adapter reaches some tensors only; the others are unchanged, not unknown."""
    base = {"a": torch.ones(2), "b": torch.ones(2)}
    vectors = {
        "whole": DistributionVector(
            "whole", base, {name: value + 1 for name, value in base.items()}
        ),
    }

    class Part(DistributionVector):
        def __iter__(self):
            return iter(["a"])

        def __contains__(self, name):
            return name == "a"

    vectors["part"] = Part("part", base, {"a": torch.tensor([2.0, 1.0]), "b": base["b"]})
    found = measure(base, vectors)
    assert found.gram().tolist() == [[4.0, 1.0], [1.0, 1.0]]
    assert found.distance(by="tensor").values[1].tolist() == [pytest.approx(2**0.5), 0.0]


@pytest.mark.parametrize("length", [2**18, 2**18 + 5, 1023, 0])
def test_products_in_runs_are_near_those_in_float64(length):
    """Rows of very different size with a common part: no cosine is off by more than 2e-8."""
    common, *own = torch.randn(4, length, generator=torch.Generator().manual_seed(5))
    rows = torch.stack(
        [part * size + common * size / 3 for part, size in zip(own, (1.0, 1e-3, 1e4), strict=True)]
    )
    exact = rows.double() @ rows.double().T
    scale = exact.diag().sqrt().outer(exact.diag().sqrt()).clamp(min=1e-300)
    found = gram_of(rows)
    assert found.dtype == torch.float64 and ((found - exact).abs() / scale).max() < 2e-8
    assert torch.equal(gram_of(rows.double()), exact)
    assert [square_of(row) for row in rows] == pytest.approx(exact.diag().tolist(), rel=1e-7)
    assert square_of(rows[0].double()) == pytest.approx(float(exact[0, 0]), rel=1e-12)
