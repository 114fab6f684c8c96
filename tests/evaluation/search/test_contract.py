"""What every searcher keeps to: its box, no point twice, frozen coordinates, failures, resuming."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.search.cma import CmaSearch
from evaluation.search.contract import Measured, Space, Trial
from evaluation.search.coordinate import CoordinateSearch
from evaluation.search.front import front
from evaluation.search.gp import GpSearch
from evaluation.search.gradient import GradientSearch
from evaluation.search.greedy import GreedySearch
from evaluation.search.grid import GridSearch
from evaluation.search.nsga import NsgaSearch
from evaluation.search.objective import mean_loss
from evaluation.search.simplex import SimplexSearch
from evaluation.search.surrogate import SurrogateSearch
from evaluation.search.tpe import TpeSearch

NAMES = ("a", "b", "c")
BOX = Space(dict.fromkeys(NAMES, (0.0, 1.0)))
START = dict.fromkeys(NAMES, 0.5)
CENTRES = {"x": (0.8, 0.3, 0.1), "y": (0.4, 0.9, 0.2)}


def measured(point):
    """Two datasets with bowls at CENTRES, each with its own curvature."""
    losses, gradients = {}, {}
    for scale, (dataset, centre) in enumerate(CENTRES.items(), 1):
        away = {name: point[name] - middle for name, middle in zip(NAMES, centre, strict=True)}
        losses[dataset] = 1.0 + scale * sum(value**2 for value in away.values())
        gradients[dataset] = {name: 2 * scale * value for name, value in away.items()}
    return Measured(losses, gradients)


def bent(got):
    """The same losses and slopes through exp, so that they are no quadratics."""
    losses = {name: math.exp(loss) for name, loss in got.losses.items()}
    return Measured(
        losses,
        {k: {n: losses[k] * slope for n, slope in row.items()} for k, row in got.gradients.items()},
    )


def searchers(space=BOX, start=START, at_once=1):
    objective, more = mean_loss(CENTRES), {"at_once": at_once}
    return {
        "coordinate": CoordinateSearch(space, start, **more),
        "grid": GridSearch(space, 3),
        "simplex": SimplexSearch(space, 4),
        "greedy": GreedySearch(space, 3),
        "gradient": GradientSearch(space, objective, start, **more),
        "surrogate": SurrogateSearch(space, objective, start, **more),
        "tpe": TpeSearch(space, start, **more),
        "gp": GpSearch(space, start, **more),
        "nsga": NsgaSearch(space, start, list(CENTRES), population=6),
        "cma": CmaSearch(space, start),
    }


KINDS = list(searchers())
LEARNING = ["coordinate", "gradient", "surrogate", "tpe", "gp"]
"""Those that learn from every answer, and propose other points for another number of workers."""


def run(search, budget=40, measure=measured):
    while len(search.trials) < budget and (point := search.ask()) is not None:
        got = measure(point)
        score = math.nan if got is None else mean_loss(CENTRES).score(got.losses)
        search.tell(Trial(point, score, got))
    return search


@pytest.mark.parametrize("kind", KINDS)
def test_no_point_is_asked_twice_and_all_lie_in_the_box(kind):
    search = run(searchers()[kind])
    asked = [tuple(trial.point.values()) for trial in search.trials]
    assert len(set(asked)) == len(asked) >= 3
    assert all(0 <= value <= 1 for point in asked for value in point)
    assert search.best.score == min(trial.score for trial in search.trials)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_answers_give_the_same_points(kind):
    first, again = (run(searchers()[kind], 12) for _ in range(2))
    assert first.trials == again.trials


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_stands_until_it_is_answered(kind):
    search = searchers()[kind]
    point = search.ask()
    assert search.ask() == point and search.best is None
    other = {**point, "a": 0.123}
    words = r"tell\(\) takes a point that ask\(\) or free\(\) returned and that has no trial, first"
    with pytest.raises(ValueError, match=words):
        search.tell(Trial(other, 1.0))
    search.tell(Trial(point, 1.0, measured(point)))
    with pytest.raises(ValueError, match=words):
        search.tell(Trial(point, 1.0, measured(point)))
    assert search.ask() != point


def trial_of(point, got):
    return Trial(point, math.nan if got is None else mean_loss(CENTRES).score(got.losses), got)


def run_side_by_side(search, workers, budget, measure, seed=0):
    """Some workers of different speed; returns the search and the most points that were out."""
    chance, out, widest = np.random.default_rng(seed), [], 0
    while True:
        # Trials that wait in the searcher count to the budget as well.
        left = budget - len(search.trials) - len(search._pending)
        out += search.free(min(workers - len(out), left))
        if not out:
            return search, widest
        widest = max(widest, len(out))
        ready = out.pop(int(chance.integers(len(out))))
        search.tell(trial_of(ready, measure(ready)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [2, 5])
def test_many_workers_have_the_trials_of_one(kind, workers):
    def sometimes(point):
        # Some fail, by their place and not by their turn.
        return None if sum(point.values()) * 1e4 % 7 < 1 else bent(measured(point))

    # The Gaussian process takes half a second a point, and gives one point at a time.
    count = 13 if kind == "gp" else 30
    one = run(searchers()[kind], count, sometimes)
    many, widest = run_side_by_side(searchers()[kind], workers, count, sometimes)
    assert many.trials == one.trials
    assert (widest > 1) == (kind not in LEARNING)


ALONE = {
    "coordinate": """0.5 0.5 0.5, 0.7 0.5 0.5, 0.3 0.5 0.5, 0.5 0.7 0.5, 0.5 0.7 0.7, 0.5 0.7 0.3,
        0.7 0.7 0.3, 0.3 0.7 0.3, 0.5 0.9 0.3""",
    "gradient": "0.5 0.5 0.5, 0.5125 0.7096 0.2, 0.5375 0.69 0.1704, 0.5414 0.6876 0.1649",
    "surrogate": """0.5 0.5 0.5, 0.8 0.8 0.2, 0.5 0.6828 0.0, 0.4709 0.7984 0.2379,
        0.5528 0.668 0.1786, 0.5426 0.6889 0.1641""",
    "tpe": """0.5 0.5 0.5, 0.5488 0.7152 0.6028, 0.5449 0.4237 0.6459, 0.4376 0.8918 0.9637,
        0.3834 0.7917 0.5289, 0.568 0.9256 0.071, 0.0871 0.0202 0.8326, 0.7782 0.87 0.9786,
        0.7992 0.4615 0.7805, 0.1183 0.6399 0.1434, 0.9407 0.441 0.0422, 0.5643 0.9981 0.0286""",
    "gp": """0.5 0.5 0.5, 0.5488 0.7152 0.6028, 0.5449 0.4237 0.6459, 0.4376 0.8918 0.9637,
        0.3834 0.7917 0.5289, 0.568 0.9256 0.071, 0.0871 0.0202 0.8326, 0.7782 0.87 0.9786,
        0.7992 0.4615 0.7805, 0.1183 0.6399 0.1434, 0.4402 0.7249 0.0, 0.0 1.0 0.0""",
}
"""The trials in the box, as they were before any of these could propose several points at once."""


@pytest.mark.parametrize("kind", LEARNING)
def test_one_worker_has_the_trials_of_a_search_that_proposes_one_point_at_a_time(kind):
    expected = [tuple(map(float, point.split())) for point in ALONE[kind].split(",")]
    search = run(searchers()[kind], len(expected), lambda point: bent(measured(point)))
    points = [tuple(trial.point.values()) for trial in search.trials]
    assert points == [pytest.approx(point, abs=5e-4) for point in expected]


@pytest.mark.parametrize("kind", LEARNING)
def test_the_trials_do_not_depend_on_which_worker_is_faster(kind):
    def sometimes(point):
        return None if sum(point.values()) * 1e4 % 7 < 1 else bent(measured(point))

    budget = 13 if kind == "gp" else 22
    in_order = run(searchers(at_once=4)[kind], budget, sometimes)
    for seed in range(2):
        search = searchers(at_once=4)[kind]
        raced, widest = run_side_by_side(search, 4, budget, sometimes, seed)
        assert raced.trials == in_order.trials and widest == 4
    assert any(trial.score == math.inf for trial in in_order.trials)


@pytest.mark.parametrize(
    ("kind", "gradients", "share"),
    [
        ("coordinate", False, 0.02),
        ("gradient", True, 0.002),
        ("surrogate", True, 0.002),
        ("surrogate", False, 0.002),
        ("tpe", False, 0.1),
        pytest.param("gp", False, 0.02, marks=pytest.mark.slow),
    ],
)
def test_four_workers_reach_the_optimum_of_a_quadratic_in_fewer_rounds(kind, gradients, share):
    """Rounds until the loss is above the optimum, 1, by a share of what it was at the start."""
    curvature = np.array([[4.0, 1.0, 0.0], [1.0, 1.5, 0.5], [0.0, 0.5, 0.6]])

    def quadratic(point):
        away = np.array(list(point.values())) - (0.8, 0.3, 0.1)
        slopes = dict(zip(NAMES, (curvature @ away).tolist(), strict=True))
        loss = 1 + float(away @ curvature @ away) / 2
        return Measured(dict.fromkeys(CENTRES, loss), dict.fromkeys(CENTRES, slopes))

    first = quadratic(START).losses["x"]
    assert first == pytest.approx(1.238)

    def rounds(at_once):
        search, count = searchers(at_once=at_once)[kind], 0
        while search.best is None or search.best.score > 1 + share * (first - 1):
            points, count = search.free(at_once), count + 1
            assert points, "it ended before it was near"
            for point in points:
                got = quadratic(point)
                search.tell(trial_of(point, got if gradients else Measured(got.losses)))
        return count

    assert rounds(4) <= 0.65 * rounds(1)


def test_the_design_of_a_surrogate_search_is_measured_side_by_side():
    def plain(point):
        return Measured(bent(measured(point)).losses)

    one = run(searchers()["surrogate"], 12, plain)
    many, widest = run_side_by_side(searchers()["surrogate"], 5, 12, plain)
    assert many.trials == one.trials and widest == len(NAMES)


def test_trials_enter_in_the_order_of_asking_whichever_comes_first():
    search = GridSearch(BOX, 3)
    first, second, third = search.free(3)
    assert search.ask() == first
    search.tell(Trial(third, 3.0))
    search.tell(Trial(second, 2.0))
    assert search.trials == [] and search.ask() == first and search.best is None
    search.tell(Trial(first, 1.0))
    assert [trial.score for trial in search.trials] == [1.0, 2.0, 3.0]
    assert search.ask() not in (first, second, third)


def test_a_searcher_that_needs_answers_gives_nothing_more():
    search = GreedySearch(BOX, 2)
    assert len(search.free(9)) == 1 and search.free(9) == []
    search.tell(Trial(search.ask(), 1.0))
    assert len(search.free(2)) == 2 and len(search.free(9)) == 1 and search.free(9) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "simplex"])
def test_a_frozen_coordinate_stays(kind):
    space = Space({"a": (0.0, 1.0), "b": (0.25, 0.25), "c": (-1.0, 1.0)})
    search = run(searchers(space)[kind])
    assert {trial.point["b"] for trial in search.trials} == {0.25}
    assert len(search.trials) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_failed_trials_do_not_end_a_search(kind):
    search = searchers()[kind]
    fails = iter([False, True, True])

    def sometimes(point):
        # No bowl, so that no searcher is at the end after three points.
        return None if next(fails, False) else bent(measured(point))

    run(search, 30, sometimes)
    failed = [trial.score == math.inf for trial in search.trials]
    assert failed[:4] == [False, True, True, False]
    assert search.best.score < math.inf


@pytest.mark.parametrize("kind", ["coordinate", "gradient", "surrogate"])
def test_the_optimum_of_a_bowl_is_found(kind):
    search = run(searchers()[kind], 40)
    best = [(1 * x + 2 * y) / 3 for x, y in zip(*CENTRES.values(), strict=True)]
    tolerance = 0.05 if kind == "coordinate" else 0.01
    assert list(search.best.point.values()) == pytest.approx(best, abs=tolerance)


@pytest.mark.parametrize("kind", ["gradient", "surrogate"])
def test_the_optimum_at_a_bound_is_found(kind):
    space = Space({"a": (0.0, 0.3), "b": (0.9, 1.5), "c": (-1.0, 0.0)})
    search = run(searchers(space)[kind], 30)
    assert search.best.point == pytest.approx({"a": 0.3, "b": 0.9, "c": 0.0}, abs=0.005)


@pytest.mark.parametrize("kind", ["tpe", "gp", "cma"])
def test_the_libraries_come_near_the_optimum_of_a_bowl(kind):
    search = run(searchers()[kind], 60)
    exact = run(searchers()["surrogate"], 20).best.score
    start = search.trials[0].score
    assert (search.best.score - exact) / (start - exact) < 0.2


@pytest.mark.parametrize(
    ("search", "budget"),
    [
        (NsgaSearch(BOX, START, list(CENTRES), population=6), 40),
        (GpSearch(BOX, START, list(CENTRES)), 20),
    ],
    ids=["nsga", "gp"],
)
def test_with_several_aims_the_front_spreads_between_the_optima(search, budget):
    run(search, budget)
    losses = [tuple(trial.measured.losses.values()) for trial in search.trials]
    found = [tuple(trial.measured.losses.values()) for trial in front(search.trials, CENTRES)]
    assert 2 <= len(found) < len(losses)
    assert min(losses) in found
    # Each dataset alone comes near its own optimum, which is 1.
    assert min(x for x, _ in found) < 1.15 and min(y for _, y in found) < 1.15


def test_gradients_are_asked_for_by_those_that_learn_from_them():
    assert {kind for kind, search in searchers().items() if search.GRADIENTS} == {
        "gradient",
        "surrogate",
    }


def test_a_surrogate_search_without_gradients_finds_the_optimum_too():
    search = run(searchers()["surrogate"], 40, lambda point: Measured(measured(point).losses))
    assert search.best.score == pytest.approx(
        run(searchers()["surrogate"], 20).best.score, abs=2e-3
    )


def test_a_grid_has_the_corners_and_its_size():
    search = run(GridSearch(BOX, 3))
    assert len(search.trials) == len(search) == 27
    points = [tuple(trial.point.values()) for trial in search.trials]
    assert points[0] == (0, 0, 0) and points[1] == (0, 0, 0.5) and points[-1] == (1, 1, 1)


def test_a_simplex_has_all_points_of_its_lattice():
    points = [tuple(trial.point.values()) for trial in run(SimplexSearch(BOX, 4)).trials]
    assert len(points) == math.comb(6, 2)
    assert all(sum(point) == pytest.approx(1) for point in points)
    with pytest.raises(ValueError, match="sum to 4"):
        SimplexSearch(BOX, 4, total=4)


def test_greedy_adds_the_best_vector_first_and_stops_when_none_helps():
    """Gains by hand, of one dataset: a alone 3, b alone 2, both 4, and c always costs 1."""

    def loss(point):
        a, b, c = (point[name] for name in NAMES)
        return Measured({"x": 10 - 3 * a - 2 * b + a * b + c})

    def go(order):
        search = GreedySearch(BOX, 2, order)
        while (point := search.ask()) is not None:
            got = loss(point)
            search.tell(Trial(point, got.losses["x"], got))
        return [tuple(step.values()) for step in search.added], len(search.trials)

    assert go(None) == ([(1, 0, 0), (1, 1, 0)], 7)  # base; a, b, c; ab, ac; abc
    assert go(("c", "b", "a")) == ([(0, 1, 0), (1, 1, 0)], 4)
    with pytest.raises(ValueError, match="'d', which is no coordinate"):
        GreedySearch(BOX, 2, ["d"])


@pytest.mark.parametrize(
    "bounds", [{}, {"a": (1.0, 0.0)}, {"a": (0.0, math.inf)}, {"a": (math.nan, 1.0)}]
)
def test_a_box_that_is_none_is_refused(bounds):
    with pytest.raises(ValueError, match="at least one coordinate|expected low <= high for a"):
        Space(bounds)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_a_surrogate_search_beats_the_grid_on_any_quadratic(seed):
    """Known losses whose optimum can be computed, five ω, 25 evaluations with derivatives for 3."""
    chance = np.random.default_rng(seed)
    names = [f"v{number}" for number in range(5)]
    space = Space(dict.fromkeys(names, (0.0, 1.0)))
    roots = chance.normal(size=(3, 5, 5)) / 2
    curvatures = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(5)
    centres = chance.uniform(0, 1, (3, 5))
    objective = mean_loss(dict.fromkeys("xyz"))

    def measure(point):
        away = np.array(list(point.values())) - centres
        slopes = np.einsum("kij,kj->ki", curvatures, away)
        losses = 0.5 + 0.5 * (away * slopes).sum(1)
        return Measured(
            dict(zip("xyz", losses.tolist(), strict=True)),
            {
                key: dict(zip(names, row.tolist(), strict=True))
                for key, row in zip("xyz", slopes, strict=True)
            },
        )

    search = SurrogateSearch(space, objective, dict.fromkeys(names, 0.5))
    while len(search.trials) < 8 and (point := search.ask()) is not None:
        got = measure(point)
        search.tell(Trial(point, objective.score(got.losses), got))
    grid = np.array(np.meshgrid(*[np.linspace(0, 1, 6)] * 5)).reshape(5, -1).T
    away = grid[None] - centres[:, None]
    best = (0.5 + 0.5 * np.einsum("kqi,kij,kqj->kq", away, curvatures, away)).mean(0).min()
    assert search.best.score <= 1.01 * best


@pytest.mark.parametrize("seed", range(2))
def test_planted_useless_and_harmful_vectors_are_found(seed):
    """Ten useful vectors, five useless, five harmful: 40 points with derivatives, so 120 evaluations.

    A useful vector lowers one of five losses, a harmful one raises all, and every pair of vectors
    disturbs a little; a useless one costs by its size only.
    """
    chance, n, names = np.random.default_rng(seed), 20, [f"v{number}" for number in range(20)]
    help_of = np.zeros((5, n))
    help_of[np.arange(10) % 5, np.arange(10)] = 1
    help_of[:, 15:] = -chance.uniform(0.3, 1, (5, 5))
    mixed = chance.normal(size=(5, n, n)) * 0.05
    cost = np.einsum("kij,klj->kil", mixed, mixed) + 0.15 * np.eye(n)
    cost[:, 10:15, 10:15] += 0.5 * np.eye(5)
    objective = mean_loss(dict.fromkeys("abcde"))

    def measure(point):
        x = np.array(list(point.values()))
        margin, bent = 1.5 - 2 * help_of @ x, cost @ x
        losses = np.logaddexp(0, margin) + 0.5 * bent @ x
        slopes = bent - 2 * help_of / (1 + np.exp(-margin))[:, None]
        return Measured(
            dict(zip("abcde", losses.tolist(), strict=True)),
            {
                key: dict(zip(names, row.tolist(), strict=True))
                for key, row in zip("abcde", slopes, strict=True)
            },
        )

    search = SurrogateSearch(
        Space(dict.fromkeys(names, (-1.0, 1.0))), objective, dict.fromkeys(names, 0.05)
    )
    while len(search.trials) < 40 and (point := search.ask()) is not None:
        got = measure(point)
        search.tell(Trial(point, objective.score(got.losses), got))
    best = list(search.best.point.values())
    assert min(best[:10]) > 0 > max(best[15:])
    assert max(map(abs, best[10:15])) < 0.05
