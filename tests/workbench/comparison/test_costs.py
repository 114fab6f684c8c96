"""Table 8 for what is open: experts and mixing runs by their folders, sweeps from the ledger, training.json beside weights."""

import json
import shutil

import pytest

from evaluation.records.prices import Cost
from workbench.comparison.added_models import add
from workbench.comparison.collect import compare
from workbench.comparison.costs import cost_table, recorded_training
from workbench.jobs import measure_missing


@pytest.fixture
def mixed(session, world):
    folder = shutil.copytree(world / "ada", world / "mixed")
    yield folder
    shutil.rmtree(folder)


def train(session, folder, seconds):
    session.ledger.add(
        "training",
        folder.name,
        wall_seconds=seconds,
        device_seconds=2 * seconds,
        output=str(folder),
    )


def test_from_first_run_to_a_measured_comparison(session, world, mixed):
    empty = cost_table(session)
    assert all(row.dem is None for row in empty.rows)
    assert "the training of ada is not in the ledger" in empty.notes
    for name, seconds in {"ada": 10, "bob": 20, "lora": 3}.items():
        train(session, world / name, seconds)
    session.losses(session.recipe((0.5, 0.0, 0.0)))
    session.losses(session.recipe((0.25, 0.0, 0.0)))
    session.baselines()  # what stands at the ends of the axis is no try
    swept = [phase.wall_seconds for phase in session.ledger.phases("evaluation")[:2]]
    projected = cost_table(session, unit="wall_seconds")
    one, two, four = projected.rows[:3]
    assert one.dem == Cost(pytest.approx(33 + swept[0]), "measured")
    assert two.dem == Cost(pytest.approx(33 + sum(swept)), "measured")
    assert four.dem == Cost(pytest.approx(33 + 2 * sum(swept)), "projected")
    assert two.mixing == Cost(pytest.approx(66 + sum(swept)), "projected")
    assert one.ratio.value == pytest.approx(1.0)
    assert projected.crossover == Cost(2, "projected")

    (mixed / "training.json").write_text(
        json.dumps({"spent": {"wall_seconds": 30.0, "device_seconds": 59.0}})
    )
    made = add(session, mixed)
    before = len(session.ledger.phases("evaluation"))
    job = session.jobs.wait(measure_missing.submit(session, compare(session, [made])).id)
    assert job.state == "done", job.error
    (last,) = session.ledger.phases("evaluation")[before:]
    measured = cost_table(session, unit="wall_seconds")
    assert measured.rows[0].untuned == Cost(pytest.approx(30 + last.wall_seconds), "measured")
    assert (
        measured.rows[0].untuned_ratio.value < 1
    )  # one untuned mixing run is cheaper than three experts
    assert measured.rows[1].dem.how == "measured"  # the sweep of the mixed model is no try of ω
    assert measured.rows[2].dem.value == pytest.approx(four.dem.value)
    assert cost_table(session, []).rows[0].untuned.how == "projected"
    train(session, mixed.resolve(), 40)
    assert cost_table(session, unit="wall_seconds").rows[0].untuned.value == pytest.approx(
        40 + last.wall_seconds
    )
    with pytest.raises(KeyError):
        cost_table(session, ["nobody"])


def test_what_stands_beside_weights(tmp_path):
    assert recorded_training(tmp_path) is None
    spent = {
        "phase": "training",
        "wall_seconds": 1.5,
        "device_seconds": 3,
        "examples": 7,
        "device": "NVIDIA H200",
    }
    spent |= {"tokens": 70, "supervised": 21, "peak_bytes": 10**9, "processes": 2}
    (tmp_path / "training.json").write_text(json.dumps({"spent": spent}))
    found = recorded_training(tmp_path)
    assert (found.kind, found.wall_seconds, found.device_seconds, found.examples) == (
        "training",
        1.5,
        3.0,
        7,
    )
    assert (found.tokens, found.supervised, found.peak_bytes, found.processes) == (70, 21, 10**9, 2)
    assert (found.device, found.output, found.complete) == (
        "NVIDIA H200",
        str(tmp_path.resolve()),
        True,
    )
    for strange in (
        "[]",
        "{",
        '{"spent": 7}',
        '{"spent": {"wall_seconds": -1, "device_seconds": 0}}',
        "\xff",
    ):
        (tmp_path / "training.json").write_bytes(strange.encode("latin-1"))
        assert recorded_training(tmp_path) is None
