"""arcee_fusion against a plain loop in float64."""

from math import exp, log
from random import Random


def divergence(tuned, base):
    def softmax(row):
        total = sum(map(exp, row))
        return [exp(x) / total + 1e-8 for x in row]

    return sum(p * log(p / q) for p, q in zip(softmax(tuned), softmax(base), strict=True))


def test_takes_the_change_where_its_importance_is_an_outlier(combine, close):
    random = Random(0)
    base = [[random.gauss(0, 1) for _ in range(5)] for _ in range(4)]
    delta = [[random.gauss(0, 0.3) for _ in range(5)] for _ in range(4)]
    scores = []
    for change, origin in zip(delta, base, strict=True):
        tuned = [x + y for x, y in zip(origin, change, strict=True)]
        scores.append([abs(x) * divergence(tuned, origin) for x in change])
    ordered = sorted(x for row in scores for x in row)
    first, median, third = (ordered[int(q * 19)] for q in (0.25, 0.5, 0.75))
    bar = median + 1.5 * (third - first)
    assert any(
        median + (third - first) <= score < bar for row in scores for score in row
    )  # 1.5 makes a difference
    wanted = [
        [x if s >= bar else 0.0 for x, s in zip(*rows, strict=True)]
        for rows in zip(delta, scores, strict=True)
    ]
    assert 0 < sum(x != 0 for row in wanted for x in row) < 10
    close(combine("arcee_fusion", [delta], base=base), wanted)
