"""The messages of the live line: what a page may send, and what is refused by name."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.records.loss_cache import Entry
from merging.errors import RecipeError
from workbench.errors import SessionError
from workbench.line.contract import (
    ProtocolError,
    Wish,
    finite,
    mean_message,
    page_of,
    point_message,
    standing_of,
    state_of,
    wish_of,
)
from workbench.session.loss_on_axis import LossOnAxis
from workbench.session.standing import Choice, Standing

GOOD = {
    "page": "page-1234",
    "turn": 3,
    "models": "abc",
    "method": "ties",
    "parameters": {"density": 0.3},
    "omegas": {"cot": 0.127},
    "held": True,
    "prompt": "Hello",
    "plain": True,
}


def test_a_whole_wish_is_read_and_three_keys_may_be_left_out():
    assert wish_of(GOOD) == Wish(**GOOD)
    short = {key: value for key, value in GOOD.items() if key not in ("held", "prompt", "plain")}
    assert wish_of(short) == Wish(**short, held=False, prompt="", plain=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"turn": True}, "turn"),
        ({"turn": 1.0}, "turn"),
        ({"turn": -1}, "turn"),
        ({"turn": 2**53}, "turn"),
        ({"page": "x"}, "page"),
        ({"page": "../../etc"}, "page"),
        ({"omegas": [1, 2]}, "omegas"),
        ({"omegas": {str(n): 0 for n in range(1001)}}, "1000"),
        ({"method": None}, "method"),
        ({"prompt": "x" * 20_001}, "prompt"),
        ({"held": 1}, "held"),
        ({"plain": "yes"}, "plain"),
        ({"more": 1}, "more"),
    ],
)
def test_a_wish_of_another_form_is_refused_by_the_key(change, named):
    with pytest.raises(ProtocolError, match=named):
        wish_of(GOOD | change)


@pytest.mark.parametrize("key", ["page", "turn", "models", "method", "parameters", "omegas"])
def test_a_wish_without_a_key_is_refused(key):
    with pytest.raises(ProtocolError, match=f"no {key}"):
        wish_of({name: value for name, value in GOOD.items() if name != key})


PLAIN = st.none() | st.booleans() | st.floats() | st.text()


@given(
    st.recursive(
        PLAIN,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
    )
)
def test_no_document_breaks_the_reader(document):
    with pytest.raises(ProtocolError):
        wish_of(document)


def test_a_page_has_a_plain_name():
    assert page_of("Ab_-1234") == "Ab_-1234"
    for bad in ("short", "a" * 65, "with space", None, 5, "ünicode123"):
        with pytest.raises(ProtocolError):
            page_of(bad)


def test_a_state_reads_back_to_its_standing(session):
    models = session.models
    standing = Standing((0.25,) * len(models.names), Choice.of("ties", {"density": 0.3}))
    assert standing_of(state_of(standing, models), models) == standing


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 2.5, -1.01, "0.5", None, True, [1], 10**400]
)
def test_an_omega_that_is_no_number_in_range_is_refused_by_name(session, value):
    name = session.models.names[0]
    state = {"method": "task_arithmetic", "parameters": {}, "omegas": {name: value}}
    with pytest.raises(SessionError, match=f"ω of {name}"):
        standing_of(state, session.models)


def test_an_unknown_vector_method_or_parameter_is_refused(session):
    state = {"method": "task_arithmetic", "parameters": {}, "omegas": {}}
    with pytest.raises(SessionError, match="no vector is called 'other'"):
        standing_of(state | {"omegas": {"other": 1.0}}, session.models)
    with pytest.raises(RecipeError, match="unknown"):
        standing_of(state | {"method": "magic"}, session.models)
    with pytest.raises(RecipeError, match="no parameter 'density'"):
        standing_of(state | {"parameters": {"density": 0.5}}, session.models)


def entry(name, value, stderr=0.01, n=10):
    return Entry(name, value, stderr, n, 100)


def test_a_point_has_the_share_of_the_gain_and_no_number_that_json_lacks():
    point = LossOnAxis(entry("cot", 0.4), entry("cot", 1.0), entry("cot", 0.2), quick=True)
    message = point_message("cot", point)
    assert message["share"] == pytest.approx(0.75)  # (1.0 − 0.4) / (1.0 − 0.2)
    assert message["share_stderr"] is None
    sums = [
        entry("cot", value)._replace(sums=sums)
        for value, sums in ((0.4, (2.0, 4.0)), (1.0, (4.0, 8.0)), (0.2, (3.0, 5.0)))
    ]
    known = point_message("cot", LossOnAxis(*sums, quick=True))
    assert known["share_stderr"] == 0.25  # gained (2, 4) of (1, 3) possible
    assert message["quick"] is True
    assert known["ends"]
    # Without the ends of its axis a loss has no share yet.
    alone = point_message("cot", LossOnAxis(sums[0], None, None, quick=False))
    assert (alone["loss"], alone["n"], alone["ends"]) == (sums[0].value, sums[0].n, False)
    assert (alone["base"], alone["expert"], alone["share"]) == (None, None, None)
    assert alone.keys() == known.keys()
    broken = LossOnAxis(entry("cot", math.nan, math.inf), entry("cot", 1.0), None, quick=False)
    assert point_message("cot", broken)["loss"] is None
    assert point_message("cot", broken)["stderr"] is None
    assert finite(None) is None


def test_the_mean_is_of_all_datasets_and_one_size():
    points = {
        name: LossOnAxis(entry(name, value, 0.3), entry(name, 1.0), None, quick=False)
        for name, value in (("a", 0.2), ("b", 0.6))
    }
    mean = mean_message(points, 2)
    assert mean["value"] == pytest.approx(0.4)
    assert mean["stderr"] == pytest.approx(math.sqrt(0.18) / 2)
    assert (mean["n"], mean["datasets"]) == (20, 2)
    assert mean_message(points, 3) is None
    mixed = points | {"b": LossOnAxis(entry("b", 0.6), entry("b", 1.0), None, quick=True)}
    assert mean_message(mixed, 2) is None
    assert mean_message({}, 0) is None
