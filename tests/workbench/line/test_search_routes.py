"""What a page may ask of a search, and the list of what was measured."""

import pytest

from evaluation.errors import TaskError
from workbench.errors import SessionError
from workbench.line import search_routes
from workbench.line.contract import ProtocolError
from workbench.search.paired import paired_errors
from workbench.search.wanted import TaskAim, Wanted
from workbench.session.loss_on_axis import FULL
from workbench.session.standing import Choice


@pytest.fixture
def asked(session, monkeypatch):
    """What would have been searched for: (recipe, wanted)."""
    seen = []
    monkeypatch.setattr(search_routes.process, "submit", lambda *values: seen.append(values[1:]))
    return seen


def document(session, **wanted):
    omegas = dict.fromkeys(session.models.names, 0.3)
    return {"models": session.models.key, "omegas": omegas, "wanted": wanted}


def test_what_is_not_wanted_has_its_default(session, asked):
    search_routes.begin(session, document(session))
    (recipe, wanted) = asked[0]
    assert wanted == Wanted()
    # Wherever the sliders stand, it is the same search.
    assert set(recipe.omegas.values()) == {0.0}


def test_a_search_near_the_sliders_begins_there(session, asked):
    for more in ({"reach": 0.2}, {"frozen": ["ada"]}):
        search_routes.begin(session, document(session, **more))
    for recipe, wanted in asked:
        assert set(recipe.omegas.values()) == {0.3}
        assert wanted.start == dict.fromkeys(session.models.names, 0.3)
    assert asked[0][1].reach == 0.2 and asked[1][1].frozen == ("ada",)


def test_limits_may_be_left_empty(session, asked):
    search_routes.begin(session, document(session, highest_sum=None, highest_norm=0.3))
    assert asked[0][1] == Wanted(highest_norm=0.3)


def test_groups_several_aims_and_benchmarks_reach_the_search(session, asked, monkeypatch):
    monkeypatch.setattr("evaluation.harness.check", lambda names: None)
    for more in (
        {"groups": "part"},
        {"aim": "front", "method": "nsga", "tasks": [], "suite": "demo"},
        {"aim": "score", "method": "tpe", "tasks": ["demo_cot", "demo_sni"], "limit": 5},
        {"aim": "score", "method": "tpe", "tasks": [], "suite": "demo", "limit": None},
    ):
        search_routes.begin(session, document(session, **more))
    assert [wanted for _, wanted in asked] == [
        Wanted(groups="part"),
        Wanted(aim="front", method="nsga"),
        Wanted(aim="score", method="tpe", bench=TaskAim(("demo_cot", "demo_sni"), limit=5)),
        Wanted(aim="score", method="tpe", bench=TaskAim(suite="demo")),
    ]


def test_numbers_of_the_merge_method_are_searched_from_where_the_page_has_them(session, asked):
    ties = {"method": "ties", "parameters": {"lambda": 1.5}}
    more = {"merge": ties, "vary": {"density": [0.1, 0.9], "lambda": None}}
    search_routes.begin(session, document(session, **more))
    recipe, wanted = asked[0]
    merge = Choice("ties", {"lambda": 1.5})
    assert wanted == Wanted(merge=merge, vary={"density": (0.1, 0.9), "lambda": None})
    assert wanted.options() == ["--vary=density=0.1:0.9", "--vary=lambda"]
    # The recipe names the method, its other numbers and all vectors, wherever the sliders stand.
    assert (recipe.method, dict(recipe.parameters)) == ("ties", {"lambda": 1.5})
    assert recipe.omegas == dict.fromkeys(session.models.names, 1.0)
    planned = search_routes.plan(session, document(session, **more))
    assert "--vary=density=0.1:0.9 --vary=lambda" in planned["command"]
    assert recipe.digest in planned["command"]
    # Without a number to search it is the search of sums that it was.
    search_routes.begin(session, document(session, merge=ties, vary={}))
    assert asked[1][1] == Wanted() and asked[1][0].method == "task_arithmetic"


def test_a_method_without_omegas_combines_the_vectors_of_the_page(session, asked):
    omegas = dict.fromkeys(session.models.names, 0.0) | {"bob": 1.0}
    slerp = {"method": "slerp", "parameters": {}}
    told = document(session, merge=slerp, vary={"t": [0.2, 0.6]}) | {"omegas": omegas}
    search_routes.begin(session, told)
    recipe, wanted = asked[0]
    assert [source.name for source in recipe.models] == ["bob"]
    # A recipe has to give t, and the page has none yet.
    assert wanted.merge.parameters == {"t": pytest.approx(0.5)}


def test_numbers_that_cannot_be_searched_are_refused(session, asked):
    ties, karcher = ({"method": name, "parameters": {}} for name in ("ties", "karcher"))
    for merge, vary, words in (
        (ties, {"densiti": None}, "has no number that is called 'densiti'.*density"),
        (ties, {"density": [0.5, 1.5]}, "expected a lower and a higher number within 0 and 1"),
        (karcher, {"tol": None}, "takes the base as one more model"),
    ):
        with pytest.raises(SessionError, match=words):
            search_routes.plan(session, document(session, merge=merge, vary=vary))
    with pytest.raises(ProtocolError, match="expected the merge method"):
        search_routes.begin(session, document(session, vary={"density": None}))
    assert asked == []


def test_an_unknown_task_is_refused_before_anything_starts(session, asked):
    with pytest.raises(TaskError, match="unknown task 'demo_cott'"):
        search_routes.begin(
            session, document(session, aim="score", method="tpe", tasks=["demo_cott"])
        )
    assert asked == []


def test_a_plan_names_the_command_and_the_cost_and_starts_nothing(session, asked):
    asked_for = {"groups": "depth", "budget": 7, "highest_sum": 1.5}
    planned = search_routes.plan(session, document(session, **asked_for))
    assert planned["command"].startswith("dem search ")
    assert "--budget=7 --groups=depth --sum-at-most=1.5" in planned["command"]
    assert planned["seconds"] is None  # nothing was measured yet
    with pytest.raises(SessionError, match="the simplex gives"):
        search_routes.plan(session, document(session, groups="depth", method="simplex"))
    assert asked == []


@pytest.mark.parametrize(
    "wanted",
    [
        {"groups": 1},
        {"tasks": "demo_cot"},
        {"tasks": [1]},
        {"limit": 0},
        {"limit": 2.0},
        {"suite": None},
        {"budget": 4.0},
        {"budget": True},
        {"budget": 2_000_000},
        {"low": "0"},
        {"limited": 1},
        {"screened": "yes"},
        {"highest_sum": "1"},
        {"frozen": "ada"},
        {"weights": {"ada": None}},
        {"merge": "ties"},
        {"merge": {"method": "ties"}},
        {"vary": ["density"]},
        {"vary": {"density": [0.1]}},
        {"vary": {"density": [0.1, "1"]}},
        {"seed": 3},
        {"aim": ["share"]},
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused(session, asked, wanted):
    with pytest.raises(ProtocolError, match=next(iter(wanted))):
        search_routes.begin(session, document(session, **wanted))
    assert asked == []


def test_other_models_and_other_forms_are_refused(session, asked):
    with pytest.raises(SessionError, match="other models are open"):
        search_routes.begin(session, document(session) | {"models": "x"})
    for wrong in (
        None,
        [],
        {},
        document(session) | {"more": 1},
        document(session) | {"wanted": []},
    ):
        with pytest.raises(ProtocolError):
            search_routes.begin(session, wrong)
    with pytest.raises(SessionError, match="no method of a search"):
        search_routes.begin(session, document(session, method="luck"))
    assert asked == []


def test_a_trial_names_the_datasets_that_are_surely_worse_than_the_base(session):
    base, seen = session.losses(session.recipe({}), FULL), set()
    for omegas in ({"ada": -0.02}, {"ada": -1.0}, {"bob": 1.0}, {"lora": 2.0}):
        recipe = session.recipe(omegas)
        losses = session.losses(recipe, FULL)
        errors = paired_errors(session, session.models, recipe, session.recipe({}))
        rows = {tuple(row["omegas"]): row for row in search_routes.trials(session)["trials"]}
        row = rows[tuple(omegas.get(name, 0.0) for name in session.models.names)]
        above = {name: loss.value - base[name].value for name, loss in losses.items()}
        assert row["worse"] == [name for name in above if above[name] > errors[name]]
        seen |= {(above[name] > 0, name in row["worse"]) for name in above}
    assert seen == {(True, True), (True, False), (False, False)}


def test_trials_are_the_measured_sums_the_best_first(session):
    for omega in (0.1, 0.5):
        session.losses(session.recipe({"ada": omega}), FULL)
    session.losses(session.recipe({"ada": 1.0, "bob": 1.0}, Choice("ties")), FULL)
    listed = search_routes.trials(session)
    means = [trial["mean"] for trial in listed["trials"]]
    assert means == sorted(means) and listed["count"] == len(means)
    assert listed["names"] == session.models.names
    rows = {tuple(trial["omegas"]): trial for trial in listed["trials"]}
    row = rows[0.5, 0.0, 0.0]
    losses = session.losses(session.recipe({"ada": 0.5}), FULL)
    assert row["losses"] == [losses[name].value for name in listed["datasets"]]
