"""Who is helped by which vector: by hand, with examples that nothing helps or hurts."""

from influence.vectors.helpful_vectors import helpful_vectors
from tests.influence.vectors.test_vector_influence import table


def test_a_worked_example() -> None:
    """a helps rows 0 and 2 of 4; b helps none; c helps rows 0 and 3."""
    found = helpful_vectors(table([[-3, 1, -5], [2, 0.5, 0], [-1, 0, 0], [4, 6, -0.1]]))
    assert found.helped == (0.5, 0.0, 0.5)
    assert found.best == ("c", "", "a", "c")
    assert found.worst == ("b", "a", "", "b")


def test_the_order_of_vectors_does_not_matter() -> None:
    rows = [[-3.0, 1, -5], [2, 0.5, 0]]
    straight, turned = table(rows), table([row[::-1] for row in rows])
    turned = turned._replace(vectors=turned.vectors[::-1])
    assert helpful_vectors(straight).best == helpful_vectors(turned).best
    assert helpful_vectors(straight).worst == helpful_vectors(turned).worst
