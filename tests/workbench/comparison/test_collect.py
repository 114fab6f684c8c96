"""Everything side by side from what is stored: losses, scores, costs; what is missing is named, and a job measures it."""

import json
import math
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from evaluation.benchmark_scores import Score as Measured
from evaluation.benchmark_scores import count_examples
from merging.recipe.formula import formula
from workbench.comparison.added_models import add, contender_from_folder, read_added, remove
from workbench.comparison.collect import compare
from workbench.comparison.contenders import contenders
from workbench.comparison.table import Cell, Column, best_positions
from workbench.errors import SessionError
from workbench.jobs import export, measure_missing
from workbench.jobs.benchmark import BenchmarkRequest
from workbench.line.contract import standing_of_recipe
from workbench.search.record import SearchRecord
from workbench.search.running import Search
from workbench.search.wanted import Wanted
from workbench.session.keys import weights_key
from workbench.session.runs import keep_scores
from workbench.session.standing import Choice, Standing

BEST = (0.5, -0.25, 0.75)


def keep(
    session, recipe, task="arc", value=0.5, n=50, limit=50, suite="", stderr=0.07, metric="acc"
):
    keep_scores(
        session.workdir,
        recipe,
        [Measured(task, metric, value, stderr, n, 1.0)],
        suite=suite,
        limit=limit,
    )


def by_name(comparison):
    return {line.contender.name: line for line in comparison.lines}


def train(session, name, seconds, **more):
    folder = next(path for path in session.models.checkpoints if path.name == name)
    amounts = {"wall_seconds": seconds, "device_seconds": 2 * seconds}
    session.ledger.add("training", name, output=str(folder.resolve()), **amounts, **more)


@pytest.fixture
def mixed(session, world):
    """A model of another folder under an allowed root: as one that was trained on mixed data."""
    folder = shutil.copytree(world / "ada", world / "mixed")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: 1.01 * value for name, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    yield folder
    shutil.rmtree(folder)


def test_before_anything_was_measured_everything_is_missing_and_named(session):
    table = compare(session)
    assert [(line.contender.name, line.contender.kind) for line in table.lines] == [
        ("base", "base"), ("ada", "checkpoint"), ("bob", "checkpoint"), ("lora", "checkpoint"), ("current", "current"),
    ]  # fmt: skip
    assert table.datasets == ("ada", "bob", "lora") and table.columns == ()
    assert table.missing["bob"] == ("loss of ada", "loss of bob", "loss of lora")
    costs = by_name(table)["current"].expense
    assert costs == (None, None, 0.0, 0.0, ("ada", "bob", "lora"))
    assert by_name(table)["base"].expense == (0.0, 0.0, 0.0, 0.0, ())


def test_losses_scores_and_costs_side_by_side(session):
    current = session.recipe(BEST)
    found = session.losses(current)
    keep(session, current, value=0.5)
    keep(session, current, value=0.625, stderr=0.068)  # the newer one stands
    keep(session, session.recipe((0.0, 0.0, 0.0)), value=0.25)
    train(session, "ada", 10.0)
    train(session, "bob", 20.0)
    train(session, "lora", 1.5)
    table = compare(session)
    line, base = by_name(table)["current"], by_name(table)["base"]
    assert dict(line.losses) == found
    arc = Column("arc", "acc", 50)
    assert dict(line.scores) == {arc: Cell(0.625, 0.068, 50, "")}
    assert base.scores[arc].value == 0.25
    assert by_name(table)["ada"].missing == (
        "loss of ada",
        "loss of bob",
        "loss of lora",
        "arc acc, first 50",
    )
    assert line.missing == ()
    assert (line.expense.training_wall, line.expense.training_device) == (31.5, 63.0)
    (phase,) = session.ledger.phases("evaluation")
    assert line.expense.evaluation_wall == phase.wall_seconds
    assert by_name(table)["ada"].expense.training_wall == 10.0
    assert by_name(table)["ada"].expense.evaluation_wall == 0.0


def test_the_base_keeps_its_scores_when_other_checkpoints_are_open(session):
    keep(session, session.recipe((0.0, 0.0, 0.0)), value=0.25)
    keep(session, session.recipe((0.0, 0.0, 1.0)), value=0.375)
    session.remove("bob")
    table = compare(session)
    assert [score.value for score in by_name(table)["base"].scores.values()] == [0.25]
    assert [score.value for score in by_name(table)["lora"].scores.values()] == [0.375]


def test_scores_of_other_numbers_of_examples_stand_in_another_column(session):
    base = session.recipe((0.0, 0.0, 0.0))
    keep(session, base, value=0.25, limit=50)
    keep(session, base, value=0.75, limit=None, n=999)
    table = compare(session)
    assert {column.title: score.n for column, score in by_name(table)["base"].scores.items()} == {
        "arc acc": 999,
        "arc acc, first 50": 50,
    }


def test_saved_recipes_are_those_that_were_measured(session):
    benchmarked, lower, higher = (session.recipe((omega, 0.1, 0.0)) for omega in (0.2, 0.3, 0.9))
    keep(session, benchmarked)
    for recipe in (lower, higher, session.recipe((0.4, 0.4, 0.4))):
        session.workdir.save_recipe(recipe)
    best, worst = sorted(
        (lower, higher),
        key=lambda recipe: sum(entry.value for entry in session.losses(recipe).values()),
    )
    names = [one.name for one in contenders(session).contenders if one.kind == "recipe"]
    assert names == [formula(benchmarked), formula(best), formula(worst)]
    few = contenders(session, most=1)
    assert [one.name for one in few.contenders if one.kind == "recipe"] == [
        formula(benchmarked),
        formula(best),
    ]
    assert "measured compositions that are not shown, as their mean loss is higher: 1" in few.notes
    (session.workdir.root / "recipes" / "strange.yml").write_text("merge_method: nothing at all\n")
    assert len(contenders(session).contenders) == 7


def test_what_searches_found_for_groups_of_layers_is_listed_in_any_case(session):
    folder = session.workdir.searches / "one"
    folder.mkdir(parents=True)
    # With derivatives, whose cost is no sweep of the ledger.
    wanted = Wanted("loss", "surrogate", 45, groups="depth", limited=False)
    search = Search(session, session.models, wanted)
    for _ in search.steps():
        SearchRecord(folder).write_step(search, session.workdir)
    recipe = search.recipe_of(search.best)
    assert not session.ledger.phases("evaluation", digest=weights_key(recipe))
    for most in (0, 12):
        rows = contenders(session, most=most).contenders
        assert weights_key(recipe) in [row.key for row in rows]
    # Without its search it is one of the measured ones.
    (folder / "progress.json").unlink()
    assert weights_key(recipe) in [row.key for row in contenders(session).contenders]
    assert weights_key(recipe) not in [row.key for row in contenders(session, most=0).contenders]
    (row,) = [row for row in contenders(session).contenders if row.key == weights_key(recipe)]
    assert "ω(layer)·Δ" in row.name


def test_recipes_of_other_models_are_counted_and_not_shown(session):
    keep(session, session.recipe((0.0, 0.5, 0.0)))
    session.remove("bob")
    found = contenders(session)
    assert [one.name for one in found.contenders] == ["base", "ada", "lora"]
    assert "benchmarked recipes of other models than are open now: 1" in found.notes


def test_the_same_weights_stand_once(session):
    found = contenders(session, session.recipe((0.0, 1.0, 0.0)))
    assert [one.name for one in found.contenders] == ["base", "ada", "bob", "lora"]
    assert found.notes == ("the current composition is bob",)


def test_a_model_of_its_own_folder_is_added_measured_and_removed(session, mixed):
    made = add(session, mixed)
    assert (made.kind, made.name, made.folder) == ("model", "mixed", mixed.resolve())
    assert read_added(session.workdir) == {"mixed": mixed.resolve()}
    table = compare(session, [made])
    job = session.jobs.wait(measure_missing.submit(session, table).id)
    assert job.state == "done", job.error
    (line,) = compare(session, [made]).lines
    assert line.missing == () and line.expense.evaluation_wall > 0
    assert line.losses["ada"].n == 23 and math.isfinite(line.losses["ada"].stderr)
    session.open(session.models.base.path, [(mixed, None)], session.models.data_folder)
    open_now = session.losses(
        session.recipe((1.0,))
    )  # the oracle: the same weights as a checkpoint at ω = 1
    for name, entry in line.losses.items():
        assert entry.value == pytest.approx(open_now[name].value, abs=1e-5)
    remove(session, "mixed")
    assert read_added(session.workdir) == {}
    with pytest.raises(SessionError, match="no model called 'mixed' was added; added are none"):
        remove(session, "mixed")


def test_the_training_cost_of_a_folder_travels_beside_its_weights(session, mixed):
    def cost():
        return compare(session, [contender_from_folder(mixed, "mixed")]).lines[0].expense

    assert cost().unrecorded == ("mixed",)
    spent = {"phase": "training", "wall_seconds": 30.0, "device_seconds": 59.0}
    (mixed / "training.json").write_text(json.dumps({"spent": spent}))
    assert cost()[:2] == (30.0, 59.0) and cost().unrecorded == ()
    session.ledger.add(
        "training", "mixed", wall_seconds=31, device_seconds=60, output=str(mixed.resolve())
    )
    assert cost()[:2] == (31.0, 60.0)  # the ledger of this workdir knows better
    (mixed / "training.json").write_text("[]")
    session.ledger.close()


def test_an_export_is_compared_by_itself_and_costs_what_its_experts_cost(session):
    train(session, "ada", 10.0)
    train(session, "lora", 1.5)
    recipe = session.recipe((0.5, 0.0, 0.75))
    assert session.jobs.wait(export.submit(session, recipe, "first", "bfloat16").id).state == "done"
    line = by_name(compare(session))["first"]
    assert line.contender.kind == "export"
    assert (line.expense.training_wall, line.expense.unrecorded) == (11.5, ())
    assert line.missing[0] == "loss of ada"  # bfloat16 weights are others than the composition's


def test_what_cannot_be_compared_is_said(session, world, mixed, tmp_path):
    with pytest.raises(SessionError, match="outside the folders"):
        add(session, tmp_path)
    with pytest.raises(
        SessionError, match="is an adapter, not a full model. Open it as a checkpoint"
    ):
        add(session, world / "lora")
    with pytest.raises(SessionError, match="data cannot be compared: "):
        add(session, world / "data")
    add(session, mixed, "one")
    with pytest.raises(SessionError, match="one is already the name of .*mixed. Give another name"):
        add(session, world / "ada", "one")
    assert add(session, mixed, "one").name == "one"
    file = session.workdir.root / "compared.json"
    file.write_text(json.dumps({"gone": str(tmp_path / "gone")}))
    assert any(note.startswith("gone cannot be compared: ") for note in compare(session).notes)
    for damaged in ("[1]", "{", '{"a": 1}'):
        file.write_text(damaged)
        with pytest.raises(
            SessionError,
            match="is damaged: it is not a JSON object of names and folders. Remove it",
        ):
            compare(session)


def test_the_rows_are_data_and_text(session):
    base = session.recipe((0.0, 0.0, 0.0))
    session.losses(base)
    keep(session, base, value=0.25, stderr=math.nan)
    table = compare(session, contenders(session).contenders[:2])
    data = json.loads(json.dumps(table.as_data(), allow_nan=False))
    first, second = data["rows"]
    assert (first["name"], first["kind"], first["folder"]) == ("base", "base", None)
    assert second["formula"] == "Θ + 1.00·Δada + 0.00·Δbob + 0.00·Δlora"
    assert first["losses"]["ada"]["n"] == 23 and first["losses"]["ada"]["stderr"] > 0
    assert first["scores"] == [
        {
            "task": "arc",
            "metric": "acc",
            "limit": 50,
            "value": 0.25,
            "stderr": None,
            "n": 50,
            "suite": "",
        }
    ]
    assert (first["missing"], first["cost"]["training_wall"]) == ([], 0.0)
    assert second["losses"] == {"ada": None, "bob": None, "lora": None} and second["scores"] == []
    assert second["cost"]["unrecorded"] == ["ada"] and second["cost"]["training_wall"] is None
    head, *rows = table.cells()
    assert (
        head[0] == ""
        and head[1] == "ada loss ± s.e."
        and head[4:6] == ["mean loss ± s.e.", "arc acc, first 50 ± s.e. (n)"]
    )
    assert rows[0][0] == "base" and rows[0][5] == "0.250 ± undefined (50)"
    assert rows[1][:6] == ["ada", "–", "–", "–", "–", "–"] and rows[1][6:] == ["–", "0.0"]
    assert {len(row) for row in table.cells()} == {8}


def test_steps_name_each_missing_benchmark_once(session):
    base, other = session.recipe((0.0, 0.0, 0.0)), session.recipe((1.0, 0.0, 0.0))
    for metric in ("acc", "acc_norm"):
        keep(session, base, metric=metric)
    keep(session, base, "piqa")
    keep(session, base, "demo_cot", suite="demo", limit=None)
    keep(session, base, "demo", suite="demo", limit=None, metric="mean")
    keep(session, other)
    session.losses(base)
    table = compare(session)
    found = [
        (step.contender.name, step.asked) for step in measure_missing.missing_measurements(table)
    ]
    assert [asked for name, asked in found if name == "base"] == []
    assert [asked for name, asked in found if name == "bob"] == [
        None, BenchmarkRequest("demo", (), None), BenchmarkRequest("", ("arc", "piqa"), 50),
    ]  # fmt: skip
    assert [asked for name, asked in found if name == "ada"][2] == BenchmarkRequest(
        "", ("arc", "piqa"), 50
    )  # acc_norm is missing
    wanted = [BenchmarkRequest("demo", (), None), BenchmarkRequest("", ("arc",), 7)]
    more = [
        step.asked
        for step in measure_missing.missing_measurements(table, wanted)
        if step.contender.name == "base"
    ]
    assert more == [BenchmarkRequest("", ("arc",), 7)]
    assert [asked for name, asked in found if name == "bob"].count(
        BenchmarkRequest("demo", (), None)
    ) == 1
    with pytest.raises(SessionError, match="the limit is 0"):
        measure_missing.missing_measurements(table, [BenchmarkRequest("demo", (), 0)])


def test_a_job_measures_what_is_missing_and_then_nothing_is(session):
    chosen = contenders(session).contenders[:2]
    table = compare(session, chosen)
    job = session.jobs.wait(
        measure_missing.submit(session, table, [BenchmarkRequest("", ("demo_cot",), 2)]).id
    )
    assert job.state == "done", job.error
    assert job.result == "4 measurements"
    after = compare(session, chosen)
    assert after.missing == {}
    assert all(score.n == 2 for line in after.lines for score in line.scores.values())
    bench = [phase for phase in session.ledger.phases() if phase.name == "benchmark demo_cot"]
    assert [(phase.digest, phase.examples, phase.complete) for phase in bench] == [
        (one.key, 2, True) for one in chosen
    ]
    assert after.lines[0].expense.evaluation_wall >= bench[0].wall_seconds
    with pytest.raises(SessionError, match="nothing is missing in this table"):
        measure_missing.submit(session, after)


def test_a_model_that_reads_other_tokens_fails_alone(session, mixed):
    tokens = json.loads((mixed / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (mixed / "tokenizer.json").write_text(json.dumps(tokens))
    rows = [contender_from_folder(mixed, "mixed"), contenders(session).contenders[0]]
    job = session.jobs.wait(measure_missing.submit(session, compare(session, rows)).id)
    assert job.state == "failed"
    assert job.error.startswith("mixed: mixed has another tokenizer than the base")
    other, base = compare(session, rows).lines
    assert len(other.missing) == 3 and base.missing == ()


def test_a_cancelled_job_keeps_what_it_measured(session, monkeypatch):
    rows = contenders(session).contenders[:3]
    original = session.losses

    def losses(recipe, size="full", stale=lambda: False):
        if weights_key(recipe) == rows[1].key:
            session.jobs.cancel(session.jobs.active()[0].id)
        return original(recipe, size, stale)

    monkeypatch.setattr(session, "losses", losses)
    job = session.jobs.wait(measure_missing.submit(session, compare(session, rows)).id)
    assert job.state == "cancelled"
    assert [len(line.missing) for line in compare(session, rows).lines] == [0, 3, 3]


def test_models_opened_meanwhile_stop_the_job_with_a_reason(session, monkeypatch):
    rows = contenders(session).contenders[:2]
    original = session.losses

    def losses(recipe, size="full", stale=lambda: False):
        found = original(recipe, size, stale)
        session.remove("lora")
        return found

    monkeypatch.setattr(session, "losses", losses)
    job = session.jobs.wait(measure_missing.submit(session, compare(session, rows)).id)
    assert (
        job.state == "failed"
        and job.error == "ada: other models were opened meanwhile. Compare again."
    )


def test_the_best_of_a_column_worked_by_hand():
    assert best_positions([0.5, None, 0.25, 0.25], lower=True) == {2, 3}
    assert best_positions([0.5, None, 0.25, math.nan], lower=False) == {0}
    assert best_positions([0.8380001, 0.838, 0.9], lower=True) == {
        0,
        1,
    }  # the same weights, loaded and composed
    assert best_positions([0.25, 0.25, None], lower=True) == frozenset()
    assert best_positions([0.839, 0.838], lower=True) == {1}
    assert best_positions([0.5, None], lower=True) == best_positions([], lower=True) == frozenset()


def test_which_way_a_metric_is_good():
    assert Column("wikitext", "word_perplexity", None).lower_is_better
    assert Column("wikitext", "bits_per_byte,strict", 5).lower_is_better
    assert not Column("arc", "acc_norm", None).lower_is_better


def test_the_mean_loss_with_its_error(session):
    current = session.recipe(BEST)
    table = compare(session, current=current)
    assert by_name(table)["current"].mean is None
    found = session.losses(current)
    value, error = by_name(compare(session, current=current))["current"].mean
    assert value == pytest.approx(sum(entry.value for entry in found.values()) / 3)
    assert error == pytest.approx(math.sqrt(sum(entry.stderr**2 for entry in found.values())) / 3)


def test_where_the_sliders_make_a_row(session):
    models = session.models
    at = Standing(BEST, Choice("ties", {"density": 0.3}))
    assert standing_of_recipe(models.recipe(at.omegas, at.choice), models) == at
    without = Standing((1.0, 0.0, 1.0), Choice("model_stock"))  # a method without ω: who takes part
    assert standing_of_recipe(models.recipe(without.omegas, without.choice), models) == without
    plain = models.recipe(BEST)
    assert standing_of_recipe(plain, models) == Standing(BEST)
    gradient = [replace(source, parameters={"weight": [0.0, 1.0]}) for source in plain.models]
    assert standing_of_recipe(replace(plain, models=tuple(gradient)), models) is None
    far = [replace(source, parameters={"weight": 7.0}) for source in plain.models]
    assert standing_of_recipe(replace(plain, models=tuple(far)), models) is None
    assert standing_of_recipe(replace(plain, out_dtype="bfloat16"), models) is None


def test_recipes_that_are_asked_for_are_there_unmeasured(session):
    asked = session.recipe((0.1, 0.2, 0.3))
    names = [
        one.name
        for one in contenders(session, recipes=[asked, session.recipe({"ada": 1.0})]).contenders
    ]
    assert names == ["base", "ada", "bob", "lora", formula(asked)]


def test_what_is_missing_in_words(session):
    rows = contenders(session).contenders[:2]
    session.losses(session.recipe({}))
    todo = measure_missing.missing_measurements(
        compare(session, rows),
        [BenchmarkRequest("demo", (), 7), BenchmarkRequest("", ("arc", "piqa"), None)],
    )
    assert measure_missing.describe(todo) == [
        "benchmark demo, first 7: base, ada",
        "benchmark arc, piqa: base, ada",
        "losses: ada",
    ]


def test_a_group_counts_none_of_its_examples_again():
    scores = [
        Measured("a", "acc", 0.5, 0.1, 40, 1.0),
        Measured("a", "acc_norm", 0.5, 0.1, 40, 1.0),
        Measured("b", "acc", 0.5, 0.1, 60, 1.0),
        Measured("ab", "acc", 0.5, 0.1, 100, 1.0, group=True),
    ]
    assert count_examples(scores) == 100
