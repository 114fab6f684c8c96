"""Tables of what vectors do, by hand."""

import numpy as np

from influence.balance.domain_influence import DomainInfluence
from influence.vectors.helpful_vectors import helpful_vectors
from influence.vectors.vector_influence import vector_influence
from tests.influence.vectors.test_vector_influence import table
from workbench.influence_runs.vector_table import CurvatureCheck, VectorTable
from workbench.reports import vector_tables

SETS = {"x": table([[-2, 1], [-4, 1]]), "y": table([[0.5, 1], [0.5, 3]])}
"""Means: x −3 and 1, y 0.5 and 2; so nothing helps y. The norms are 1, so cosines are slopes."""
FOUND = VectorTable(
    vector_influence(SETS, alike="tokens"),
    SETS,
    {name: helpful_vectors(each) for name, each in SETS.items()},
    dict.fromkeys(SETS, (0, 1)),
    dict.fromkeys(SETS, ("line 1", "line 2")),
)


def check(stationarity):
    domains = DomainInfluence(
        ("a", "b"), ("x", "y"), (5, 5), np.array([[1.0, 2], [3, 0]]), np.ones((2, 2)),
        stationarity, (),
    )  # fmt: skip
    return CurvatureCheck(domains, 1.0, (1.0, -1.0))


def test_each_set_with_its_best_helper():
    lines = [line.split() for line in vector_tables.vectors(FOUND).splitlines()]
    # Of −2 and −4 the deviation is √2, and the error √2/√2 = 1.
    assert ["x", "-3.0000", "±", "1.0000", "+1.0000", "±", "0.0000"] in lines
    assert ["x", "2", "100%", "0%", "a"] in lines
    assert ["y", "2", "0%", "0%", "none"] in lines
    assert "the two halves of the examples disagree" in vector_tables.vectors(FOUND)


def test_the_same_as_data():
    first, second = vector_tables.vectors_as_data(FOUND)["datasets"]
    assert (first["dataset"], first["best"], second["best"]) == ("x", "a", "")
    assert first["vectors"][0] == {
        "vector": "a", "derivative": -3, "stderr": 1, "cosine": -3, "helped": 1, "best_of": 2,
    }  # fmt: skip
    assert second["vectors"][0]["best_of"] == 0
    assert vector_tables.vectors_as_data(FOUND)["ekfac"] is None


def test_ek_fac_stands_beside_the_vectors():
    """Means of the vectors −1.25 and 1.5, of EK-FAC 2 and 1."""
    near, far = (FOUND._replace(check=check(value)) for value in (0.1, 0.6))
    text = vector_tables.vectors(near)
    assert ["a", "-1.2500", "+2.0000"] in [line.split() for line in text.splitlines()]
    assert "(Spearman) over 2 vectors: +1.00; x +1.00, y -1.00" in text
    assert "far from an optimum" not in text
    assert "far from an optimum" in vector_tables.vectors(far)
    data = vector_tables.vectors_as_data(near)["ekfac"]
    assert data["alpha"] == {"a": 2, "b": 1} and data["n"] == 2
    assert data["spearman_per_reference"] == {"x": 1, "y": -1}
