"""Table 8 for one's own runs: the paper's ratio, the worked example, what is measured and what is projected."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.records.cost_table import SETTINGS, cost_table, crossover
from evaluation.records.ledger import Phase
from evaluation.records.prices import Cost, Prices, prices


def test_the_worked_example() -> None:
    """Experts 10 and 20, mixing 30 a run, v = 1."""
    table = cost_table(
        Prices({"a": 10, "b": 20}, mixing=(30, 30), tries=(1, 1), validations=(1, 1)), (1, 2)
    )
    one, two = table.rows
    assert (one.dem, one.mixing, one.untuned) == (
        Cost(31, "measured"),
        Cost(31, "measured"),
        Cost(31, "measured"),
    )
    assert (two.dem, two.mixing, two.untuned) == (
        Cost(32, "measured"),
        Cost(62, "measured"),
        Cost(31, "measured"),
    )
    assert one.ratio == Cost(1.0, "measured")
    assert two.ratio == Cost(62 / 32, "measured")
    assert two.untuned_ratio == Cost(31 / 32, "measured")
    assert table.crossover == Cost(2, "measured")


def test_the_papers_totals_follow_from_a_dozen_mixing_runs() -> None:
    """966 and 11,650 GPU hours: with v = 1 the experts took 954, and a mixing run 969.83; about 12 times dearer."""
    paper = Prices(
        {"five experts": 954.0},
        mixing=[11_650 / 12 - 1] * 12,
        tries=[1.0] * 12,
        validations=[1.0] * 12,
    )
    row = cost_table(paper, [12], "GPU hours").rows[0]
    assert row.dem == Cost(966.0, "measured")
    assert row.mixing is not None
    assert row.mixing.value == pytest.approx(11_650)
    assert row.ratio is not None
    assert row.ratio.value == pytest.approx(12.06, abs=0.005)
    assert row.untuned_ratio is not None
    assert row.untuned_ratio.value == pytest.approx(
        1.005, abs=0.001
    )  # against one untuned run DEM saves nothing


def test_what_was_not_paid_is_projected_at_the_mean_and_says_so() -> None:
    found = Prices({"a": 10, "b": 20}, mixing=(40, 20, 60), tries=(1, 3), validations=(2,))
    assert found.dem(1) == Cost(31, "measured")
    assert found.dem(2) == Cost(34, "measured")
    assert found.dem(4) == Cost(38, "projected")  # 30 + 1 + 3 + 2·2
    assert found.mixed(1) == Cost(42, "measured")
    assert found.mixed(2) == Cost(
        64, "projected"
    )  # 40 + 20, and 2 + 2: the second sweep was not run
    assert found.mixed(4) == Cost(168, "projected")  # 40 + 20 + 60 + 40, and 4·2
    assert cost_table(found, [4]).rows[0].ratio == Cost(168 / 38, "projected")
    assert cost_table(found, [1]).rows[0].ratio == Cost(42 / 31, "measured")


def test_without_a_mixing_run_one_is_taken_to_cost_what_all_experts_cost() -> None:
    table = cost_table(Prices({"a": 10, "b": 20}, tries=(1, 3)), (1, 4))
    assert table.rows[0].untuned == Cost(31, "projected")
    assert table.rows[1].mixing == Cost(4 * 30 + 1 + 3 + 2 * 2, "projected")
    assert table.rows[1].dem == Cost(38, "projected")
    assert table.crossover == Cost(2, "projected")
    assert (
        "no training on mixed data is recorded; one is taken to cost as much as all experts together"
        in table.notes
    )
    assert "a sweep of a mixed model is taken to cost as much as one of a merge" in table.notes


def test_the_base_and_experts_alone_are_no_tries_but_tell_what_a_try_costs() -> None:
    found = Prices({"a": 10, "b": 20}, mixing=(40,), ends=(1, 3))
    assert (found.dem(1), found.dem(4)) == (
        Cost(32, "projected"),
        Cost(38, "projected"),
    )  # 30 + 2, 30 + 4·2
    assert found.mixed(2) == Cost(84, "projected")  # 40 + 40, and 2·2
    tried = Prices({"a": 10, "b": 20}, mixing=(40,), tries=(5,), ends=(1, 3))
    assert (tried.dem(1), tried.dem(2)) == (
        Cost(35, "measured"),
        Cost(40, "projected"),
    )  # a try costs what tries cost
    assert "no sweep of a merge is recorded" in " ".join(cost_table(found).notes)
    assert (
        "measured: validation sweeps of merges 1, trainings on mixed data 1"
        in cost_table(tried).notes
    )


def test_what_is_missing_leaves_a_column_empty_and_is_named() -> None:
    table = cost_table(
        Prices({"a": 10, "b": None}, mixing=(30,), tries=(1,), notes=("b is missing",))
    )
    assert [row.settings for row in table.rows] == list(SETTINGS)
    assert all(
        row.dem is None and row.ratio is None and row.untuned_ratio is None for row in table.rows
    )
    assert table.rows[0].mixing == Cost(31, "projected")
    assert table.crossover is None
    assert table.notes[0] == "b is missing"
    unswept = cost_table(Prices({"a": 10}, mixing=(30,)))
    assert unswept.rows[0][1:] == (None, None, None)
    assert (
        "no validation sweep is recorded; measure the losses of one composition first"
        in unswept.notes
    )
    assert cost_table(Prices({"a": None})).rows[0][1:] == (None, None, None)


@pytest.mark.parametrize(
    ("expert", "mixing", "said"),
    [
        (30, 30, "DEM with one setting costs as much as one untuned mixing run"),
        (40, 30, "DEM with one setting costs 10.0 more than one untuned mixing run"),
        (30, 1500, "DEM with one setting costs 1,470.0 less than one untuned mixing run"),
    ],
)
def test_the_honest_comparison_stands_beside_every_table(
    expert: float, mixing: float, said: str
) -> None:
    table = cost_table(Prices({"a": expert}, (mixing,), (1,), (1,)))
    assert f"{said}: what DEM saves is the tuning" in table.notes


def test_the_table_as_data_and_as_text() -> None:
    table = cost_table(
        Prices({"a": 1000, "b": 20}, mixing=(30,), tries=(1,), validations=(1,)),
        (2, 1),
        "wall_seconds",
    )
    data = json.loads(json.dumps(table.as_data(), allow_nan=False))
    assert data["unit"] == "wall_seconds"
    assert data["crossover"] == {"value": 35, "how": "projected"}
    assert data["rows"][0] == {
        "settings": 1,
        "dem": {"value": 1021.0, "how": "measured"},
        "mixing": {"value": 31.0, "how": "measured"},
        "untuned": {"value": 31.0, "how": "measured"},
        "ratio": {"value": 31 / 1021, "how": "measured"},
        "untuned_ratio": {"value": 31 / 1021, "how": "measured"},
    }
    assert table.cells() == [
        ["settings tried", "DEM", "mixing, tuned", "ratio", "mixing, untuned", "ratio"],
        ["1", "1,021.0", "31.0", "0.03×", "31.0", "0.03×"],
        ["2", "~1,022.0", "~62.0", "~0.06×", "31.0", "~0.03×"],
    ]
    empty = cost_table(Prices({"a": None}), [1])
    assert empty.as_rows()[0]["dem"] is None
    assert empty.cells()[1] == ["1", "–", "–", "–", "–", "–"]


def test_free_work_has_no_ratio() -> None:
    assert cost_table(Prices({"a": 0}, (1,), (0,), (0,)), [1]).rows[0].ratio is None


def test_after_a_change_dem_trains_one_expert_and_mixing_everything() -> None:
    found = Prices({"a": 10, "b": 20}, mixing=(30, 30), tries=(1, 1), validations=(1, 1))
    assert found.changed("b", 2) == (Cost(22, "measured"), Cost(62, "measured"))
    assert Prices({"a": None, "b": 20}, (30,)).changed("a", 1) == (None, None)
    assert Prices({"a": 10}, (30,)).changed("a", 1) == (None, None)
    with pytest.raises(KeyError):
        found.changed("c", 1)


amounts = st.lists(st.integers(0, 10), max_size=3)


@settings(deadline=None)
@given(
    st.integers(0, 100),
    amounts,
    amounts,
    amounts,
    st.lists(st.integers(0, 10), min_size=1, max_size=3),
)
def test_the_crossover_is_the_plain_loops(
    expert: int, mixing: list, tries: list, validations: list, ends: list
) -> None:
    found = Prices({"a": expert}, mixing, tries, validations, ends)
    cheaper = []
    for count in range(1, 1000):  # a slope is at least 1/6, and the distance at most 100 + 3·10
        dem, mixed = found.dem(count), found.mixed(count)
        assert dem is not None
        assert mixed is not None
        cheaper.append(dem.value < mixed.value - 1e-9)
    never = not cheaper[-1]
    wanted = (
        None if never else len(cheaper) - cheaper[::-1].index(False) + 1 if False in cheaper else 1
    )
    got = crossover(found)
    assert (got and got.value) == wanted


def test_parallel_costs_never_cross() -> None:
    assert crossover(Prices({"a": 10}, (0,), (1,), (1,))) is None
    assert (
        crossover(Prices({"a": 0}, (0.1,), (0.3,), (0.2,))) is None
    )  # 0.1 + 0.2 − 0.3 is not 0 in floating point
    assert (
        crossover(Prices({"a": 10}, (50,), (51,), (1,))) is None
    )  # equal at the first, and no nearer after it


@pytest.mark.parametrize("counts", [[], [0, 1], [-1]])
def test_settings_start_at_one(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="give whole numbers from 1"):
        cost_table(Prices({"a": 1}), counts)


def test_prices_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="no expert is named"):
        Prices({})
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="give finite amounts from 0"):
            Prices({"a": 1.0}, tries=(value,))


def phase(kind: str, name: str, wall: float, **more: object) -> Phase:
    return Phase(kind, name, wall, wall / 2, **more)  # type: ignore[arg-type]


def test_prices_come_from_the_ledger() -> None:
    phases = [
        phase("training", "cot", 9, output="/out/cot"),
        phase("training", "cot", 10, output="/out/cot"),  # the last one counts
        phase("training", "sni", 20, output="/out/sni"),
        phase("training", "mixed", 30, output="/out/mixed"),
        phase("training", "mixed-2", 32, output="/out/mixed-2"),
        phase("evaluation", "losses", 2, examples=100, digest="w1"),
        phase("evaluation", "losses", 1.5, examples=99, digest="w2"),  # not all examples
        phase("evaluation", "losses", 9, examples=100, digest="w3", complete=False),  # stopped
        phase("evaluation", "quick losses", 9, examples=100, digest="w4"),
        phase("evaluation", "benchmark demo", 77, examples=500, digest="w1"),
        phase("evaluation", "losses", 1, examples=120, digest="m"),  # of the mixed model
        phase("search", "greedy", 12, examples=400, settings=4),  # four settings at 3
        phase("export", "out", 50),
    ]
    found = prices(
        phases,
        ["cot", "/out/sni"],
        ["mixed", "mixed-2"],
        examples=100,
        mixed_digests=["m"],
        unit="wall_seconds",
    )
    assert found == Prices(
        {"cot": 10.0, "/out/sni": 20.0}, [30.0, 32.0], [2.0, 3.0, 3.0, 3.0, 3.0], [1.0], [], []
    )
    halves = prices(phases, ["cot"], examples=100)  # device seconds
    assert halves.experts == {"cot": 5.0}
    assert halves.tries == [1.0, 0.5, 1.5, 1.5, 1.5, 1.5]
    apart = prices(phases, ["cot"], examples=100, end_digests=["w1", "w9"])
    assert (apart.tries, apart.ends) == ([0.5, 1.5, 1.5, 1.5, 1.5], [1.0])


def test_prices_name_what_the_ledger_lacks_and_what_cannot_be_added_up() -> None:
    phases = [
        phase("training", "cot", 10, device="NVIDIA H200"),
        phase("training", "sni", 20, complete=False),
        phase("evaluation", "losses", 2, examples=7),
    ]
    found = prices(phases, ["cot", "sni"], ["mixed"], examples=7)
    assert found.experts == {"cot": 5.0, "sni": None}
    assert found.mixing == []
    assert found.notes == [
        "the training of sni is not in the ledger",
        "the training of mixed is not in the ledger",
        "seconds of different devices are added up: NVIDIA H200, cpu",
    ]
    assert prices(phases, ["cot"], examples=0).tries == []  # without data there is no sweep
