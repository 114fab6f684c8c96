"""The page predicts what the server's surrogates predict, and tells where it is not to be trusted."""

import json
import os
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.search import Measured, Trial
from evaluation.search.surrogate import fit
from tests.workbench.page.scripts.test_scripts import ASSETS, HERE, node
from workbench.search.forecast import surrogate_data

NAMES = ["a", "b", "c", "d"]


def world(seed, sloped, count=9):
    """Measured points of two datasets, of which some have derivatives."""
    rng = np.random.default_rng(seed)
    bend = rng.normal(size=(4, 4))
    bend = bend @ bend.T
    rate = {"k": 1.0, "m": -0.6}

    def loss(name, x):
        return float(2 + rate[name] * (x @ bend @ x / 4 - x.sum()) + 0.1 * np.sin(3 * x).sum())

    def slope(name, x):
        return rate[name] * (bend @ x / 2 - 1) + 0.3 * np.cos(3 * x)

    trials = []
    for place, x in enumerate(rng.uniform(0, 1, (count, 4))):
        losses = {name: loss(name, x) for name in rate}
        each = {name: dict(zip(NAMES, slope(name, x).tolist(), strict=True)) for name in rate}
        measured = Measured(losses, each if place in sloped else None)
        trials.append(Trial(dict(zip(NAMES, x.tolist(), strict=True)), 0.0, measured))
    return trials


def predicted(document, points):
    done = subprocess.run(
        [node(), HERE / "predict.mjs"],
        env=os.environ | {"DEM_ASSETS": str(ASSETS)},
        input=json.dumps({"forecast": document, "points": points}),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("sloped", [(), (0, 3, 4), range(9)], ids=["losses", "some", "all"])
def test_the_page_predicts_as_the_server_does(sloped):
    known = world(len(sloped), set(sloped))
    surrogates = fit(NAMES, known)
    ends = {"base": 2.0, "expert": 1.5}
    document = {
        "models": "key",
        "count": len(known),
        "names": NAMES,
        "points": [list(trial.point.values()) for trial in known],
        "sloped": [trial.measured.gradients is not None for trial in known],
        "low": [0.0] * 4,
        "high": [1.0] * 4,
        "datasets": {name: surrogate_data(each) | ends for name, each in surrogates.items()},
    }
    rng = np.random.default_rng(1)
    # A measured point, points between them, and points outside.
    asked = [[*known[0].point.values()], *rng.uniform(-0.5, 1.5, (5, 4)).tolist()]
    found = predicted(document, [dict(zip(NAMES, point, strict=True)) for point in asked])
    for name, surrogate in surrogates.items():
        expected = surrogate.predict(np.array(asked))
        shown = [SimpleNamespace(**row[name]) for row in found]
        assert [row.loss for row in shown] == pytest.approx(expected.mean.tolist(), abs=1e-8)
        assert [row.stderr for row in shown] == pytest.approx(
            expected.error.tolist(), rel=1e-4, abs=1e-6
        )
        share = [(2.0 - loss) / 0.5 for loss in expected.mean]
        assert [row.share for row in shown] == pytest.approx(share, abs=1e-7)
    for point, row in zip(asked, found, strict=True):
        inside = all(-0.05 <= omega <= 1.05 for omega in point)
        assert row["k"]["inside"] is inside
        # The strip of a slider is the score with this slider moved, and the arrow its derivative.
        assert row["along"] == pytest.approx(row["moved"], abs=1e-9)
        slope = -np.mean([surrogate.at(np.array(point))[1] for surrogate in surrogates.values()], 0)
        assert list(row["slopes"].values()) == pytest.approx(slope.tolist(), abs=1e-8)


def test_a_dataset_without_an_expert_has_no_share():
    known = world(0, set())
    surrogates = fit(NAMES, known)
    document = {
        "models": "key",
        "names": NAMES,
        "points": [list(trial.point.values()) for trial in known],
        "sloped": [False] * len(known),
        "low": [0.0] * 4,
        "high": [1.0] * 4,
        "datasets": {"k": surrogate_data(surrogates["k"]) | {"base": 2.0, "expert": None}},
    }
    (row,) = predicted(document, [{}])
    assert row["k"]["share"] is None and row["k"]["share_stderr"] is None
    assert np.isfinite(row["k"]["loss"]) and row["k"]["stderr"] > 0


def test_cosines_and_norm_follow_from_the_inner_products():
    rng = np.random.default_rng(2)
    vectors, base = rng.normal(size=(3, 50)), rng.normal(size=50)
    document = {
        "models": "key",
        "names": ["a", "b", "c"],
        "gram": (vectors @ vectors.T).tolist(),
        "square": float(base @ base),
    }
    document["datasets"] = {}
    asked = [{"a": 0.5, "b": -0.25, "c": 1.5}, {"b": 2.0}, {}]
    *known, nothing = [row["geometry"] for row in predicted(document, asked)]
    assert nothing is None
    for omegas, row in zip(asked, known, strict=False):
        delta = sum(omegas.get(name, 0.0) * vectors[i] for i, name in enumerate("abc"))
        assert row["norm"] == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(base))
        for i, name in enumerate("abc"):
            cosine = delta @ vectors[i] / np.linalg.norm(delta) / np.linalg.norm(vectors[i])
            assert row["cosines"][name] == pytest.approx(cosine)
