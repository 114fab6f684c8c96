"""What a search may be asked for, and the objective that it means."""

import pytest

from evaluation.search.objective import PENALTY
from workbench.errors import SessionError
from workbench.search.wanted import Wanted
from workbench.session.standing import Choice

NAMES = ("cot", "p3")
BASE, EXPERTS = {"cot": 1.0, "p3": 2.0, "talk": 3.0}, {"cot": 0.2, "p3": 1.0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"aim": "shares"}, r"no aim of a search is called 'shares'; did you mean 'share'\?"),
        ({"method": "tpes"}, "no method of a search is called 'tpes'"),
        ({"low": 1.0}, "from 1 to 1; expected a lower and a higher number within -1 and 2"),
        ({"high": 3.0}, "from 0 to 3"),
        ({"low": float("nan")}, "from nan to 1"),
        ({"reach": 0.0}, "ω may move by 0"),
        ({"weights": {"cot": -1.0}}, "the preference of cot is -1; give 0 or more"),
        ({"weights": {"cot": 2.0}, "aim": "loss"}, "the aim is loss"),
        ({"budget": 0}, "the budget is 0"),
        ({"levels": 1}, "1 values of each ω are no search"),
        ({"screened": True}, "--few-first spares the losses .* and surrogate learns from them"),
        ({"groups": "dept"}, r"not grouped by 'dept'; did you mean 'depth'\?"),
        ({"aim": "front"}, "has the method surrogate. Use nsga or gp"),
        ({"aim": "front", "method": "gp", "screened": True}, "gp and --few-first. Use nsga or gp"),
        ({"highest_sum": 0.0}, "Σω may be at most 0; expected a number above 0"),
        ({"highest_norm": float("nan")}, "at most nan"),
        ({"groups": "part", "merge": Choice("ties")}, "Leave out --groups"),
        ({"groups": "part", "method": "simplex"}, "sum to 1, which those of groups of layers do"),
        (
            {"vary": {"density": None}, "method": "simplex", "merge": Choice("ties")},
            "sum to 1, which ω and density do not",
        ),
        ({"highest_norm": 0.1, "merge": Choice("ties")}, "Leave out --norm-at-most"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(SessionError, match=words):
        Wanted(**settings)


def test_the_first_point_is_uniform_and_frozen_vectors_stay():
    wanted = Wanted(start={"p3": 0.3}, frozen=("p3",))
    assert wanted.first(NAMES) == {"cot": 0.5, "p3": 0.3}
    assert wanted.space(NAMES).bounds == {"cot": (0.0, 1.0), "p3": (0.3, 0.3)}
    assert Wanted(low=0.6).first(NAMES) == {"cot": 0.6, "p3": 0.6}


def test_near_a_recipe_only_the_added_vector_has_the_whole_range():
    wanted = Wanted(start={"cot": 0.9, "p3": 0.0}, reach=0.2, added="p3")
    assert wanted.space(NAMES).bounds == {"cot": (pytest.approx(0.7), 1.0), "p3": (0.0, 1.0)}
    outside = Wanted(start={"cot": 1.5, "p3": -0.5}, reach=0.1)
    assert outside.space(NAMES).bounds == {"cot": (0.9, 1.0), "p3": (0.0, 0.1)}


def test_aims_and_limits():
    here = {"cot": 0.6, "p3": 2.1, "talk": 3.0}  # cot keeps 50 %, p3 loses 10 %
    share = Wanted(limited=False).objective(BASE, EXPERTS)
    assert share.score(here) == pytest.approx(-0.2)
    limited = Wanted().objective(BASE, EXPERTS)
    assert limited.score(here) == pytest.approx(-0.2 + PENALTY * 0.1)
    assert Wanted(aim="loss", limited=False).objective(BASE, EXPERTS).score(here) == pytest.approx(
        1.9
    )
    assert Wanted(aim="regret", limited=False).objective(BASE, EXPERTS).score(
        here
    ) == pytest.approx(1.1)
    weighted = Wanted(weights={"p3": 0.0}, limited=False).objective(BASE, EXPERTS)
    assert weighted.score(here) == pytest.approx(-0.5)


def test_an_aim_that_needs_an_expert_says_so():
    for aim in ("share", "regret"):
        with pytest.raises(SessionError, match="no expert is better than the base"):
            Wanted(aim=aim).objective(BASE, {})
    assert Wanted(aim="loss").objective(BASE, {}).score(BASE) == pytest.approx(2.0)
    several = Wanted(aim="front", method="nsga")
    assert several.objective(BASE, {}).score(BASE) == pytest.approx(2.0)
    assert several.options() == ["--method=nsga", "--aim=front"]


def test_a_preference_for_no_dataset_is_refused():
    with pytest.raises(SessionError, match=r"called 'cott'; did you mean 'cot'\?"):
        Wanted(weights={"cott": 2.0}).objective(BASE, EXPERTS)


def test_its_options_ask_the_command_line_for_the_same():
    import inspect

    from workbench.cli.search_omega import search

    assert Wanted().options() == []
    wanted = Wanted(
        aim="share",
        method="tpe",
        budget=12,
        low=-0.5,
        high=1.5,
        start={"cot": 0.3, "p3": 0.1},
        frozen=("cot",),
        reach=0.25,
        limited=False,
        weights={"p3": 2.0},
        levels=4,
        seed=7,
        groups="depth",
        vary={"lambda": None, "density": (0.2, 0.75)},
        highest_sum=1.5,
        highest_norm=0.2,
        alone=True,
        screened=True,
    )
    options = wanted.options()
    assert options == [
        *("--method=tpe", "--budget=12", "--low=-0.5", "--high=1.5", "--reach=0.25"),
        *("--levels=4", "--seed=7", "--freeze=cot", "--prefer=p3=2", "--from-recipe"),
        *("--groups=depth", "--vary=lambda", "--vary=density=0.2:0.75"),
        *("--sum-at-most=1.5", "--norm-at-most=0.2", "--alone", "--few-first", "--unlimited"),
    ]
    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(search).parameters}
    assert {option.split("=")[0] for option in options} <= known


@pytest.mark.parametrize(
    ("aim", "score", "words"),
    [
        ("share", -0.462, "mean share 46.2 %"),
        ("loss", 0.5381, "mean loss 0.5381"),
        ("regret", 0.31, "largest regret 31.0 %"),
        ("front", 0.5381, "mean loss 0.5381"),
    ],
)
def test_a_score_in_words(aim, score, words):
    assert Wanted(aim=aim, method="nsga").words(score) == words
