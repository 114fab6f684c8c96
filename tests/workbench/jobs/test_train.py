"""Trainings of a session: jobs in a process of their own, stopped and resumed; the ledger, the outlook, the composition."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corpus import Example, write_jsonl
from evaluation.records.ledger import Ledger, trainings
from training.errors import TrainingStopped
from training.plan.faults import PlanError
from training.plan.plan_file import parse_plan, read_plan
from training.run.record import CurvePoint
from workbench import processes
from workbench.demo.build import DEMO
from workbench.errors import SessionError
from workbench.jobs import train
from workbench.plans import curve, outlook, plan_files, plan_text, recorded_run
from workbench.plans import speed as training_speed
from workbench.session.session import Session
from workbench.session.standing import Standing

SETTINGS = "{steps: %d, batch: 4, rate: 1e-3, precision: fp32, device: cpu%s}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sources with a train and a validation split."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("sums", "words")):
        rows = [Example(f"{name} {n} and {n % 7}", f" {n + number * n % 7}") for n in range(60)]
        write_jsonl(home / name / "train.jsonl", rows[:47])
        write_jsonl(home / name / "validation.jsonl", rows[47:])
    return home


@pytest.fixture
def text(world, data):
    """The text of a plan on the tiny base."""

    def make(steps=6, more="", schedule="{kind: experts}", base=world / "base"):
        sources = "\n".join(f"  {name}: {data / name}" for name in ("sums", "words"))
        settings = SETTINGS % (steps, more)
        return f"base: {base}\nsources:\n{sources}\nvalidation:\n{sources}\nsettings: {settings}\nschedule: {schedule}\n"

    return make


@pytest.fixture
def trainer(world, data, tmp_path):
    """A session that may read the tiny world and the two sources."""
    made = Session([data], tmp_path / "workdir", demo=world)
    yield made
    made.close()


def carried(text, out, ledger=None, stop_at=None, resume=False, **watch):
    """A plan carried out in this process, stopped when should_stop was asked for the nth time."""
    asked = iter(range(10_000))
    watcher = recorded_run.Watcher(should_stop=lambda: next(asked) == stop_at, **watch)
    return recorded_run.run_recorded(parse_plan(text), out, watcher, resume=resume, ledger=ledger)


def same(one, other):
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def waited(session, job, seconds=240):
    return session.jobs.wait(job.id, seconds)


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# jobs


@pytest.mark.slow
def test_a_plan_on_the_demo_becomes_vectors(tmp_path, data):
    """On the demo's own base: a job, its curve, its cost, and a vector more at ω = 0 with the others as they were."""
    session = Session([data], tmp_path / "workdir", demo=DEMO)
    try:
        session.open_demo()
        session.settle(Standing((0.5, 0.25, 0.0, 0.0, -0.125)))
        text = (
            f"base: {DEMO / 'base'}\nsources: {{mathqa: {DEMO / 'data' / 'mathqa'}}}\n"
            f"validation: {{mathqa: {DEMO / 'data' / 'mathqa'}}}\nsettings: {SETTINGS % (3, ', lora: 4')}\n"
            "schedule: {kind: experts}\n"
        )
        file = plan_files.save(session.workdir, session.folders, "mine", text)
        job = train.submit(session, file, "mine")
        assert train.submit(session, file, "mine").id == job.id  # a second press starts nothing
        job = waited(session, job)
        assert job.state == "done", job.error
        assert job.result.startswith("1 of 1 steps trained now")
        out = tmp_path / "workdir" / "trained" / "mine"
        kept = json.loads((out / "mathqa" / "training.json").read_text())
        points = curve.curves(out)["mathqa"]
        assert [point.step for point in points] == [1, 2, 3]
        assert [point.loss for point in points] == [row["loss"] for row in kept["curve"]]
        assert points[-1].validation == kept["curve"][-1]["validation"]
        (row,) = session.ledger.phases("training")
        assert (row.name, row.output, row.complete) == ("mathqa", str(out / "mathqa"), True)
        assert (row.tokens, row.wall_seconds) == (
            kept["spent"]["tokens"],
            kept["spent"]["wall_seconds"],
        )
        assert any("validation loss mathqa" in line for line in session.jobs.tail(job.id))
        models = train.add_steps(session, "mine", ["mathqa"])
        assert models.names[-1] == "mathqa-2" and len(models.names) == 6
        assert session.standing.omegas == (0.5, 0.25, 0.0, 0.0, -0.125, 0.0)
        with pytest.raises(SessionError, match="mathqa of mine is in the composition already"):
            train.add_steps(session, "mine", ["mathqa"])
        with pytest.raises(
            SessionError, match="choose finished steps of mine to add; these are: mathqa"
        ):
            train.add_steps(session, "mine", ["other"])
    finally:
        session.close()


@pytest.mark.slow
def test_stopped_and_resumed_from_the_page_it_comes_out_the_same(trainer, text, tmp_path):
    plan = text(30, ", evaluate_every: 10", "{kind: experts, sources: [sums]}")
    (whole,) = carried(plan, tmp_path / "whole")
    out = tmp_path / "workdir" / "trained" / "cut"
    job = train.submit(
        trainer, plan_files.save(trainer.workdir, trainer.folders, "cut", plan), "cut"
    )
    until(lambda: len(curve.curves(out).get("sums", ())) > 1)
    assert processes.running_process(out)
    with pytest.raises(SessionError, match=r"process \d+ trains there now"):
        carried(plan, out, resume=True)
    train.stop(trainer, "cut")
    job = waited(trainer, job)
    assert job.state == "cancelled", (job.error, trainer.jobs.tail(job.id))
    assert processes.running_process(out) is None
    (step,) = train.steps(out)
    assert (step.name, step.state) == ("sums", "begun") and 1 < step.saved < 30
    part = trainer.ledger.phases("training")
    assert [(row.name, row.complete, row.examples) for row in part] == [
        ("sums", False, 4 * step.saved)
    ]
    with pytest.raises(
        SessionError, match=r"cut was begun and not finished \(sums\). Press Resume"
    ):
        train.submit(trainer, tmp_path / "workdir" / "plans" / "cut.yml", "cut")
    job = waited(
        trainer,
        train.submit(trainer, tmp_path / "workdir" / "plans" / "cut.yml", "cut", resume=True),
    )
    assert job.state == "done", job.error
    assert "--resume" in job.command
    assert same(whole.folder, out / "sums")
    points = curve.curves(out)["sums"]
    assert [(point.step, point.loss, point.validation) for point in points] == [
        (point.step, point.loss, point.validation)
        for point in whole.curve
        if point.step != step.saved
    ] or [point.step for point in points] == sorted({point.step for point in points})
    rows = trainer.ledger.phases("training")
    assert [row.complete for row in rows] == [False, True] and sum(
        row.examples for row in rows
    ) == 120
    assert sum(row.tokens for row in rows) == whole.spent.tokens
    assert [one.examples for one in trainings(rows)] == [120]


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_and_loses_nothing_that_was_saved(trainer, text, tmp_path):
    plan = text(60, ", save_every: 2", "{kind: experts, sources: [words]}")
    out = tmp_path / "workdir" / "trained" / "killed"
    job = train.submit(
        trainer, plan_files.save(trainer.workdir, trainer.folders, "killed", plan), "killed"
    )
    until(lambda: any(step.saved for step in train.steps(out)))
    os.kill(processes.running_process(out), signal.SIGKILL)
    job = waited(trainer, job)
    assert job.state == "failed"
    assert (
        "was ended by signal 9" in job.error
        and "memory ran out" in job.error
        and "Resume" in job.error
    )
    assert processes.running_process(out) is None
    before = train.steps(out)[0].saved
    resumed = carried(plan, out, trainer.ledger, resume=True)
    assert before and resumed[0].spent.examples == 240
    rows = trainer.ledger.phases("training")
    assert [(row.complete, row.examples) for row in rows] == [(True, 240)]


@pytest.mark.slow
def test_what_the_process_refuses_is_the_jobs_error(trainer, text, tmp_path):
    plan = text(3, ", max_length: 100000")
    job = waited(
        trainer,
        train.submit(
            trainer, plan_files.save(trainer.workdir, trainer.folders, "long", plan), "long"
        ),
    )
    assert job.state == "failed"
    assert (
        "max_length is 100000, and the base holds 128 tokens" in job.error and "line 3" in job.error
    )
    assert not (tmp_path / "workdir" / "trained" / "long").exists()


# what is refused before anything starts


def test_a_plan_stays_inside_the_allowed_folders(trainer, text, data, world, tmp_path):
    outside = tmp_path / "outside"
    write_jsonl(outside / "secret.jsonl", [Example("a", "b")])
    (data / "link").symlink_to(outside)
    plan = text()
    for old, new, line in (
        (f"base: {world / 'base'}", f"base: {outside}", "line 1, base"),
        (f"sums: {data / 'sums'}", f"sums: {outside / 'secret.jsonl'}", "line 3, sources.sums"),
        (
            f"sums: {data / 'sums'}",
            f"sums: {data / 'link' / 'secret.jsonl'}",
            "line 3, sources.sums",
        ),
        (
            f"sums: {data / 'sums'}",
            "sums: ../../outside/secret.jsonl",
            "line 3, sources.sums",
        ),  # from workdir/plans
        (
            "steps: 6",
            f"steps: 6, group_by: {{metric: anchors, anchors: {outside / 'secret.jsonl'}}}",
            "line 8",
        ),
        (
            "steps: 6",
            f"steps: 6, group_by: {{metric: kmeans, count: 2, model: {outside}}}",
            "line 8",
        ),
    ):
        changed = plan.replace(old, new, 1)
        assert changed != plan
        with pytest.raises(PlanError, match="outside the folders this server may read") as caught:
            plan_files.check(trainer.workdir, trainer.folders, changed)
        assert line in str(caught.value)
    plan_files.check(trainer.workdir, trainer.folders, plan)
    for split in (
        "../outside/secret",
        str(outside / "secret"),
        "link/secret",
        "..",
        "~/secret",
    ):
        changed = f"sums: {{path: {data}, split: {split}}}"
        with pytest.raises(PlanError, match="which is a path"):
            plan_files.check(
                trainer.workdir, trainer.folders, plan.replace(f"sums: {data / 'sums'}", changed, 1)
            )
    # A name of the hub, or of a reader of files, is a path that is outside.
    for name in ("org/on-the-hub", "text", "csv", "imagefolder", "hf://datasets/org/name"):
        with pytest.raises(PlanError, match="outside the folders this server may read"):
            plan_files.check(
                trainer.workdir,
                trainer.folders,
                plan.replace(f"sums: {data / 'sums'}", f"sums: '{name}'", 1),
            )
    (data / "link").unlink()


def test_what_is_outside_is_not_told_apart_from_what_is_not_there(trainer, text, data, tmp_path):
    (tmp_path / "there").mkdir()
    said = []
    for name in ("there", "none"):
        with pytest.raises(PlanError) as caught:
            plan_files.check(
                trainer.workdir,
                trainer.folders,
                text().replace(f"sums: {data / 'sums'}", f"sums: {tmp_path / name}", 1),
            )
        said.append(str(caught.value).replace(name, ""))
    assert said[0] == said[1]


def test_links_in_the_base_or_the_data_do_not_lead_out(trainer, text, data, world, tmp_path):
    """Also a link that is put there after the plan was checked: reading checks again."""
    from training.plan.estimate import estimate

    secret = tmp_path / "secret.jsonl"
    write_jsonl(secret, [Example("a", "b")])
    shutil.copytree(data / "sums", data / "linked")
    plan = text().replace(f"sums: {data / 'sums'}", f"sums: {data / 'linked'}", 1)
    checked = plan_files.check(trainer.workdir, trainer.folders, plan)
    (data / "linked" / "train.jsonl").unlink()
    (data / "linked" / "train.jsonl").symlink_to(secret)
    with pytest.raises(PlanError, match=r"train\.jsonl is a link that leads out"):
        plan_files.check(trainer.workdir, trainer.folders, plan)
    with pytest.raises(PlanError, match=r"train\.jsonl is a link that leads out"):
        estimate(checked)
    shutil.rmtree(data / "linked")

    shutil.copytree(world / "base", data / "base")
    weights = data / "base" / "model.safetensors"
    weights.rename(tmp_path / "model.safetensors")
    weights.symlink_to(tmp_path / "model.safetensors")
    plan = text().replace(f"base: {world / 'base'}", f"base: {data / 'base'}", 1)
    with pytest.raises(PlanError, match=r"base: .*model\.safetensors is a link that leads out"):
        plan_files.check(trainer.workdir, trainer.folders, plan)
    shutil.rmtree(data / "base")


def test_a_plan_in_the_workdir_that_is_a_link_is_not_shown(trainer, text, tmp_path):
    from workbench.page.tabs.train_display import plan_of_run

    plan_files.save(trainer.workdir, trainer.folders, "mine", text())
    assert plan_of_run(trainer, "mine") == text()
    (tmp_path / "secret").write_text("root:x:0")
    (trainer.workdir.plans / "linked.yml").symlink_to(tmp_path / "secret")
    assert plan_of_run(trainer, "linked") == ""
    with pytest.raises(SessionError, match="the name of the training is"):
        plan_of_run(trainer, "../secret")


def test_the_fields_do_not_tell_what_is_outside(trainer, data, tmp_path):
    from workbench.plans import plan_form

    for folder in (tmp_path / "out", data / "held"):
        write_jsonl(folder / "validation.jsonl", [Example("a", "b")])
    new = plan_form.set_sources(
        "", [str(tmp_path / "out"), str(data / "held")], trainer.folders.holds
    )
    assert plan_text.document(new)["validation"] == {"held": str(data / "held")}
    shutil.rmtree(data / "held")


def test_a_plan_file_is_read_under_a_root_only(trainer, text, data, tmp_path):
    (data / "plan.yml").write_text(text())
    assert [
        step.name
        for step in plan_files.read(trainer.workdir, trainer.folders, data / "plan.yml").steps
    ] == [
        "sums",
        "words",
    ]
    (tmp_path / "plan.yml").write_text(text())
    with pytest.raises(SessionError, match="is outside the folders"):
        train.submit(trainer, tmp_path / "plan.yml", "run")
    (data / "bytes.yml").write_bytes(b"base: \xff")
    with pytest.raises(Exception, match="byte 6 is not UTF-8"):
        plan_files.read(trainer.workdir, trainer.folders, data / "bytes.yml")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65])
def test_a_name_is_a_plain_file_name(trainer, name, text):
    with pytest.raises(SessionError, match="the name of the training is"):
        plan_files.save(trainer.workdir, trainer.folders, name, text())


def test_every_fault_of_a_plan_has_its_line(trainer, text):
    broken = text().replace("rate: 1e-3", "rte: 1e-3").replace("experts", "expert")
    with pytest.raises(PlanError) as caught:
        plan_files.check(trainer.workdir, trainer.folders, broken)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "plan, line 8, settings.rte",
        "plan, line 9, schedule.kind",
    ]


# the ledger


@pytest.mark.slow
def test_parts_in_the_ledger_add_up_whatever_breaks_off(text, tmp_path):
    """Stopped at update 5, resumed and stopped at 9, resumed to 12: 20 + 16 + 12 examples; then a try that is thrown away."""
    plan = text(12, "", "{kind: experts, sources: [sums]}")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for stop in (5, 4):
            with pytest.raises(TrainingStopped):
                carried(plan, tmp_path / "out", ledger, stop_at=stop, resume=True)
        (made,) = carried(plan, tmp_path / "out", ledger, resume=True)
        rows = ledger.phases("training")
        assert [(row.examples, row.complete) for row in rows] == [
            (20, False),
            (16, False),
            (12, True),
        ]
        assert sum(row.tokens for row in rows) == made.spent.tokens
        assert sum(row.wall_seconds for row in rows) == pytest.approx(made.spent.wall_seconds)
        assert len({row.digest for row in rows}) == 1 and rows[-1].peak_bytes
        assert [new.new for new in carried(plan, tmp_path / "out", ledger)] == [False]
        assert len(ledger.phases("training")) == 3  # what was there costs nothing again

        with pytest.raises(TrainingStopped):
            carried(plan, tmp_path / "again", ledger, stop_at=7)
        import shutil

        shutil.rmtree(tmp_path / "again")
        carried(plan, tmp_path / "again", ledger)
        rows = ledger.phases("training")[3:]
        assert [(row.examples, row.complete) for row in rows] == [
            (28, False),
            (48, True),
        ]  # the thrown away was paid too


@pytest.mark.slow
def test_the_digest_is_of_what_decides_the_weights(text, tmp_path):
    (one,) = carried(text(2, "", "{kind: experts, sources: [sums]}"), tmp_path / "one")
    (same_,) = carried(
        text(2, ", save_every: 1", "{kind: experts, sources: [sums]}"), tmp_path / "same"
    )
    (other,) = carried(text(2, ", seed: 1", "{kind: experts, sources: [sums]}"), tmp_path / "other")
    digests = [recorded_run.digest(made.folder) for made in (one, same_, other)]
    assert digests[0] == digests[1] != digests[2]


# the curve


def test_a_curve_survives_half_a_line_and_updates_that_come_again(tmp_path):
    validation = {"a": 1.5}
    for point in (
        CurvePoint(1, 3.0),
        CurvePoint(2, 2.5),
        CurvePoint(2, validation=validation),
        CurvePoint(3, 2.0),
    ):
        curve.append(tmp_path, "x", point)
    with (tmp_path / curve.CURVE).open("ab") as file:
        file.write(b'{"of": "x", "st')  # killed here; the last saved state is that of update 1
    assert [point.step for point in curve.curves(tmp_path)["x"]] == [1, 2, 3]
    curve.append(tmp_path, "x", CurvePoint(2, 2.5, tokens_per_second=7.0))
    curve.append(tmp_path, "y", CurvePoint(1, 9.0))
    found = curve.curves(tmp_path)
    assert found["x"] == [CurvePoint(1, 3.0), CurvePoint(2, 2.5, tokens_per_second=7.0)] and list(
        found
    ) == ["x", "y"]
    assert curve.curves(tmp_path / "none") == {}


# the outlook


@pytest.mark.slow
def test_the_outlook_says_what_the_training_then_spends(text, tmp_path):
    plan = parse_plan(text(6, "", "{kind: sequential, order: [sums, words]}"))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        before = outlook.outlook(plan, tmp_path / "out", ledger)
        assert before.sources == (f"estimate, from {training_speed.TIMED - 1} timed steps",)
        assert before.seconds == sum(line.seconds for line in before.lines) and before.seconds > 0
        assert not (tmp_path / "out").exists()
        made = recorded_run.run_recorded(
            plan, tmp_path / "out", recorded_run.Watcher(), ledger=ledger
        )
        for line, one in zip(before.lines, made, strict=True):
            said = line.as_data()
            assert said["seen"] == {
                "examples": one.spent.examples, "tokens": one.spent.tokens, "supervised": one.spent.supervised,
            }  # fmt: skip
            assert (said["examples"], said["left_out_share"], said["updates"]) == (47, 0.0, 6)
            assert (
                said["memory_bytes"] > 16 * 20_000
            )  # weights, gradients and two averages in float32
        done = outlook.outlook(plan, tmp_path / "out", ledger)
        assert done.seconds == 0 and [line.ready.standing for line in done.lines] == [
            "done",
            "done",
        ]
        other = parse_plan(text(12))
        after = outlook.outlook(other, tmp_path / "other", ledger)
        assert after.sources == ("from 2 earlier trainings here",)
        speed = after.lines[0].speed
        assert (
            after.lines[0].seconds
            == after.lines[0].ready.tokens / speed.tokens_per_second + speed.fixed
        )
        bigger = outlook.outlook(parse_plan(text(6, ", lora: 2")), tmp_path / "lora", ledger)
        assert bigger.lines[0].speed.how == "timed"  # an adapter was not trained here yet


def test_the_outlook_refuses_what_cannot_be_trained(text, tmp_path):
    with pytest.raises(PlanError, match="47 examples do not fill one step of 48"):
        outlook.outlook(parse_plan(text(3).replace("batch: 4", "batch: 48")), tmp_path / "out")


def test_the_outlook_of_a_plan_with_groups_measures_one_example(text, tmp_path):
    """The memory is measured on the longest example alone, so the group numbers are cut with the examples."""
    more = ", group_by: {metric: task}, group_weights: {sums: 2, words: 1}"
    (line,) = outlook.outlook(parse_plan(text(6, more, "{kind: mixing}")), tmp_path / "out").lines
    assert len(line.ready.stage.groups) == len(line.ready.stage.examples) == 94
    assert line.ready.groups.labels == ("sums", "words")
    assert line.need.total > 0 and line.seconds > 0


@pytest.mark.slow
def test_what_is_left_of_a_begun_step_is_what_is_said(text, tmp_path):
    plan = text(8, "", "{kind: experts, sources: [sums]}")
    with pytest.raises(TrainingStopped):
        carried(plan, tmp_path / "out", stop_at=6)
    (line,) = outlook.outlook(parse_plan(plan), tmp_path / "out").lines
    assert (line.ready.standing, line.left) == ("begun", 2)


@pytest.mark.slow
def test_states_of_the_model_group_what_is_trained(text, tmp_path):
    """`encoder: states` is refused where nobody can measure them; here it is measured."""
    plan = text(
        4,
        ", group_by: {metric: kmeans, count: 2, encoder: states}, leftover: fill",
        "{kind: mixing}",
    )
    (made,) = carried(plan, tmp_path / "out")
    assert len(set(made.ready.stage.groups)) == 2


# what can be chosen


def test_sources_are_folders_with_a_train_split_and_other_files(trainer, data, tmp_path):
    write_jsonl(data / "more" / "one.jsonl", [Example("a", "b")])
    (tmp_path / "workdir" / "trained" / "r" / "s.training" / "checkpoint-3").mkdir(parents=True)
    (
        tmp_path
        / "workdir"
        / "trained"
        / "r"
        / "s.training"
        / "checkpoint-3"
        / "trained.safetensors"
    ).write_bytes(b"")
    found = {
        one.path.relative_to(data).as_posix()
        for one in trainer.folders.sources()
        if data in one.path.parents
    }
    assert found == {"sums", "words", "more/one.jsonl"}
    assert not [one for one in trainer.folders.models() if "training" in str(one.path)]
    assert trainer.folders.holds(Path(data) / "sums" / "train.jsonl") and not trainer.folders.holds(
        "/"
    )


# adapters of steps that start from other steps


ORDER = "{kind: sequential, order: [sums, words], each: {words: {lora: 4}}}"


@pytest.mark.slow
def test_an_adapter_on_another_step_is_no_vector_of_the_plans_base(trainer, text, world):
    trainer.open(world / "base", [(world / "ada", None)], world / "data")
    out = trainer.workdir.root / "trained" / "mine"
    carried(text(2, schedule=ORDER), out)
    with pytest.raises(
        SessionError,
        match=r"sums--words is an adapter on .*sums, and the base here is .*base. Open that",
    ):
        train.add_steps(trainer, "mine", ["sums--words"])
    assert list(trainer.models.vectors) == ["ada"]
    trainer.open(out / "sums", [(world / "ada", None)], world / "data")
    assert list(train.add_steps(trainer, "mine", ["sums--words"]).vectors) == ["ada", "sums--words"]


@pytest.mark.slow
def test_the_outlook_says_so_before_the_start(trainer, text):
    from workbench.reports import training as report_training

    file = plan_files.save(trainer.workdir, trainer.folders, "mine", text(2, schedule=ORDER))
    found = outlook.outlook(
        read_plan(file), trainer.workdir.root / "trained" / "mine", trainer.ledger
    )
    said = "sums--words is an adapter on sums: its vector is relative to that step, not to the plan's base."
    assert report_training.notes(found) == [said]
    assert report_training.outlook(found).endswith(said)


@pytest.mark.slow
def test_a_step_that_goes_on_with_an_adapter_has_one_digest_stopped_or_finished(text, tmp_path):
    both = text(5, ", lora: 4, save_every: 1", "{kind: sequential, order: [sums, words]}")
    with pytest.raises(TrainingStopped):
        carried(both, tmp_path / "out", stop_at=8)
    begun = recorded_run.digest(tmp_path / "out" / "sums--words.training")
    carried(both, tmp_path / "out", resume=True)
    assert recorded_run.digest(tmp_path / "out" / "sums--words") == begun
    fresh = text(5, ", lora: 4", "{kind: experts}")
    carried(fresh, tmp_path / "other")
    assert (
        recorded_run.digest(tmp_path / "other" / "words") != begun
    )  # the same data, from no other adapter
