"""A search whose points others measure: the same trials, failures, deaths, and nothing twice."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.errors import SessionError
from workbench.search.running import FAILURES, Search
from workbench.search.unit_bench import UnitBench, open_bench
from workbench.search.wanted import Wanted
from workbench.session.session import Session
from workbench.session.standing import Choice
from workbench.workers.choice import executor_for
from workbench.workers.executor import Executor, WorkerLost
from workbench.workers.local_processes import LocalProcesses
from workbench.workers.unit import UnitResult

ROOT = Path(__file__).parents[3]
NAMES = ("ada", "bob", "lora")
LOSS = Wanted(aim="loss", limited=False, method="grid", levels=3, budget=13)


class Here(Executor):
    """Measures by a real bench with real models in this process.

    Args:
        bench: what measures.
        dies: called with each unit; whether its worker dies.
        turn: which of the open units ends first; the last one, so that none comes in its order.
    """

    def __init__(self, bench, width=3, dies=lambda unit: False, turn=-1):
        self.width, self._bench, self._dies, self._turn = width, bench, dies, turn
        self.submitted, self._open, self._ended, self._counts = [], [], {}, []
        self._polls = 0

    def submit(self, unit):
        self.submitted.append(unit)
        self._open.append(unit)
        self._counts.append(len(self._open))

    @property
    def most(self):
        """The most units of a search that were open at once, without the base and the experts."""
        return max(self._counts[1 + len(NAMES) :])

    def poll(self, unit):
        # One for each round of questions, so that the others are still under way.
        self._polls += 1
        if self._open and self._polls % self.width == 0:
            last = self._open.pop(self._turn)
            text = WorkerLost("The worker was killed.") if self._dies(last) else None
            measured = None if text else self._bench.measure(last, lambda: False)
            self._ended[last.id] = text or UnitResult.from_json(measured.to_json())
        return unit.id in self._ended

    def result(self, unit):
        ended = self._ended.pop(unit.id)
        if isinstance(ended, WorkerLost):
            raise ended
        return ended

    def cancel(self, unit):
        self._open = [each for each in self._open if each.id != unit.id]

    def close(self):
        pass


@pytest.fixture
def bench(tmp_path):
    worker = Session([], tmp_path / "worker")
    yield UnitBench(worker)
    worker.close()


@pytest.fixture
def fresh(world, tmp_path):
    """Makes sessions on new workdirs with the same models."""
    made = []

    def make(name):
        session = Session([], tmp_path / name, demo=world)
        session.open_demo()
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()


def searched(session, wanted, executor=None):
    found = Search(session, session.models, wanted, executor)
    return found, list(found.steps())


def rows(session, table):
    return sorted(session.book._database.rows(f"SELECT * FROM {table}", ()))


@pytest.mark.parametrize(
    "method",
    ["grid", *(pytest.param(each, marks=pytest.mark.slow) for each in ("greedy", "cma"))],
)
def test_many_workers_have_the_trials_of_one_and_leave_the_same_workdir(fresh, bench, method):
    wanted = replace(LOSS, method=method)
    alone, many = fresh("alone"), fresh("many")
    one, steps = searched(alone, wanted)
    executor = Here(bench)
    other, others = searched(many, wanted, executor)
    assert other.searcher.trials == one.searcher.trials
    assert others == steps and other.ends == one.ends
    assert executor.most == 3
    for table in ("losses", "examples", "slopes", "compositions"):
        assert rows(many, table) == rows(alone, table), table
    assert other.points.measured == one.points.measured
    # What it cost is in the ledger of the search, whoever spent it.
    kinds = [sorted({phase.digest for phase in each.ledger.phases()}) for each in (alone, many)]
    assert kinds[0] == kinds[1]
    again, _ = searched(many, wanted, Here(bench, dies=lambda unit: pytest.fail("measured again")))
    assert again.searcher.trials == one.searcher.trials and again.points.measured == 0


@pytest.mark.parametrize("method", ["surrogate", "gradient", "tpe"])
def test_three_workers_have_the_same_trials_whoever_is_faster(fresh, bench, method):
    wanted = replace(LOSS, method=method, budget=11 if method == "tpe" else 21)
    first, last, many = Here(bench, turn=0), Here(bench), fresh("many")
    one, _ = searched(fresh("first"), wanted, first)
    other, _ = searched(many, wanted, last)
    assert other.searcher.trials == one.searcher.trials and len(one.searcher.trials) >= 7
    assert first.most == last.most == 3
    again, _ = searched(many, wanted, Here(bench, dies=lambda unit: pytest.fail("measured again")))
    assert again.searcher.trials == one.searcher.trials and again.points.measured == 0


def test_a_search_that_was_stopped_measures_the_rest_only(fresh, bench):
    wanted = replace(LOSS, method="surrogate", budget=21)
    whole, _ = searched(fresh("whole"), wanted, Here(bench))
    many = fresh("many")
    found = Search(many, many.models, wanted, Here(bench))
    steps = found.steps()
    for _ in range(4):  # in the second round
        next(steps)
    steps.close()
    rest, _ = searched(many, wanted, Here(bench))
    assert rest.searcher.trials == whole.searcher.trials
    assert found.points.measured + rest.points.measured == whole.points.measured


GROUPS = replace(LOSS, groups="depth", method="cma", budget=14)
TIES = Choice("ties", {"density": 0.5})


@pytest.mark.parametrize(
    "wanted",
    [
        GROUPS,
        replace(GROUPS, method="surrogate", budget=9),
        replace(LOSS, merge=TIES, vary={"density": (0.2, 0.8)}, levels=2, budget=6),
        replace(LOSS, merge=Choice("sce"), vary={"select_topk": (0.1, 0.9)}),
    ],
    ids=["groups", "derivatives of groups", "ties", "no ω"],
)
def test_workers_measure_groups_of_layers_and_other_methods(fresh, bench, wanted):
    alone, many = fresh("alone"), fresh("many")
    one, _ = searched(alone, wanted)
    # The surrogate search proposes other points for several workers.
    width = 1 if wanted.method == "surrogate" else 3
    other, _ = searched(many, wanted, Here(bench, width))
    assert other.searcher.trials == one.searcher.trials
    assert other.points.measured == one.points.measured > 2
    for table in ("losses", "slopes"):
        assert rows(many, table) == rows(alone, table), table


def test_a_worker_that_dies_once_costs_nothing_and_twice_its_trial(session, bench):
    died = []

    def dies(unit):
        # The third composition of the grid kills every worker, the fourth the first one only.
        omegas = unit.recipe.count("weight: 0.5"), unit.recipe.count("weight: 1.0")
        kills = omegas == (0, 2) or (omegas == (0, 3) and unit not in died)
        died.extend([unit] if kills else [])
        return kills

    found, steps = searched(session, replace(LOSS, levels=2, budget=8), Here(bench, dies=dies))
    failed = [step.trial.point for step in steps if step.trial.score == math.inf]
    assert len(failed) == 3 and all(sorted(point.values()) == [0, 1, 1] for point in failed)
    assert len(steps) == 8 and found.spent == 8 and not found.problem
    assert "The worker was killed. It was the second worker" in found._reason


def test_losses_that_are_not_numbers_fail_and_five_in_a_row_end_a_search(session, bench):
    class Nan:
        def measure(self, unit, stale):
            result = bench.measure(unit, stale)
            if len(session.book._database.rows("SELECT 1 FROM losses", ())) < 8:
                return result  # the base and the experts
            entries = {k: each._replace(value=math.nan) for k, each in result.entries.items()}
            return replace(result, entries=entries)

    executor = Here(Nan(), turn=0)
    found, steps = searched(session, replace(LOSS, budget=27), executor)
    assert [step.trial.score for step in steps[-FAILURES:]] == [math.inf] * FAILURES
    assert len(steps) < 12 and "5 compositions in a row could not be measured" in found.problem
    assert "its loss on ada is nan" in found.problem
    assert executor._open == []  # what was still to be measured is cancelled


def test_a_worker_that_reads_other_files_ends_the_search(session, bench, world, tmp_path):
    class Elsewhere:
        def measure(self, unit, stale):
            moved = replace(unit, data=str(tmp_path / "other"))
            return bench.measure(moved, stale)

    other = tmp_path / "other" / "ada"
    other.mkdir(parents=True)
    rows = (world / "data" / "ada" / "validation.jsonl").read_text().splitlines()[:-1]
    (other / "validation.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(SessionError, match="a worker reads are not those of the search"):
        searched(session, LOSS, Here(Elsewhere()))
    (other / "validation.jsonl").unlink()
    with pytest.raises(SessionError, match="a worker cannot measure: .*other"):
        searched(session, LOSS, Here(Elsewhere()))


def test_a_composition_that_is_not_finite_fails_its_trial_only(world, tmp_path, bench):
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    demo = shutil.copytree(world, tmp_path / "demo")
    weights = load_file(demo / "ada" / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], 3e38)
    save_file(weights, demo / "ada" / "model.safetensors", metadata={"format": "pt"})
    session = Session([], tmp_path / "workdir", demo=demo)
    session.open_demo()
    try:
        wanted = replace(LOSS, method="greedy", levels=2, high=2.0, budget=6)
        one, _ = searched(session, wanted, Here(bench))
        assert any(trial.score == math.inf for trial in one.searcher.trials)
        assert one.best.point["ada"] == 0 and not one.problem
    finally:
        session.close()


@pytest.mark.slow
def test_two_processes_have_the_trials_of_one_also_if_one_is_killed(fresh):
    one, _ = searched(fresh("one"), LOSS)
    many = fresh("many")
    with LocalProcesses(many.workdir.units, 2, open_bench) as executor:
        found = Search(many, many.models, LOSS, executor)
        for number, _ in enumerate(found.steps()):
            if number == 2:
                (_, child), *_ = executor._workers.values()
                os.kill(child.process.pid, signal.SIGKILL)
        assert executor._started == 3
    assert found.searcher.trials == one.searcher.trials


@pytest.mark.slow
def test_the_same_command_after_kill_9_repeats_nothing(world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(world)
    words = ["search", "recipe.yml", "--data", "data", "--workdir", str(tmp_path / "w")]
    words += ["--aim", "loss", "--unlimited", "--method", "grid", "--levels", "6"]
    words += ["--budget", "60", "--workers", "2"]
    line = [sys.executable, "-W", "ignore", "-m", "workbench.cli", *words]
    parent = subprocess.Popen(
        line, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )

    def losses():
        """How many losses the workdir has; the file is written by another process."""
        from evaluation.records.loss_cache import LossCache

        if not (tmp_path / "w" / "losses.sqlite").exists():
            return 0
        book = LossCache(tmp_path / "w" / "losses.sqlite")
        try:
            return len(book._database.rows("SELECT 1 FROM losses", ()))
        finally:
            book.close()

    end = time.monotonic() + 120
    while losses() < 6 + 3 * 5:
        assert parent.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    left = len(list((tmp_path / "w").glob("units/*/results/*.json")))
    before = losses() // 3 - 2  # without the base and the experts, each on its own dataset
    out = tmp_path / "result.json"
    assert main([*words, "--json", str(out)]) == 0
    capsys.readouterr()
    result = json.loads(out.read_text())
    assert result["evaluations"] == 60
    # One of the grid is the base.
    assert result["measured"] <= 60 - 1 - before - left
    assert before >= 5 and result["measured"] > 0
    assert list((tmp_path / "w" / "units").iterdir()) == []


def test_an_impossible_choice_of_workers_is_refused(world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(world)
    words = ["search", "recipe.yml", "--data", "data", "--workdir", str(tmp_path / "w")]
    assert main([*words, "--ray", "10.0.0.1:6379", "--submitit", "local"]) == 2
    assert "a search has one engine. Give one of them" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--workers", "0"]) == 2
    assert "--workers" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(("option", "package"), [("ray", "ray"), ("submitit", "submitit")])
def test_an_engine_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch, option, package):
    monkeypatch.setitem(sys.modules, package, None)
    asked = {"ray": "", "submitit": "", option: "auto"}
    with pytest.raises(SessionError, match=rf"pip install 'dem-workbench\[{package}\]'"):
        executor_for(2, asked["ray"], asked["submitit"], tmp_path / "units", open_bench)
    assert not (tmp_path / "units").exists()
    assert executor_for(1, "", "", tmp_path / "units", open_bench) is None
