"""What measuring costs is in the ledger: one row per composition and size, previews together, nothing for what is known."""

import shutil
import threading

import pytest

from evaluation.errors import Stopped
from evaluation.records.ledger import Ledger
from evaluation.records.prices import LOSSES, prices
from merging.recipe import Recipe, parse_recipe, recipe_yaml
from tests.workbench.conftest import measuring
from workbench.jobs import export
from workbench.session.keys import weights_key
from workbench.session.spending import PREVIEWS, QUICK_LOSSES, LossLedger

EXAMPLES = 3 * 23
"""Three datasets of the small world."""


def spent(session, name=None):
    return [phase for phase in session.ledger.phases() if name in (None, phase.name)]


def test_a_sweep_is_one_row_with_its_counts(session):
    recipe = session.recipe((0.5, 0.25, 0.0))
    found = session.losses(recipe)
    (row,) = spent(session)
    assert (row.kind, row.name, row.digest, row.complete, row.device) == (
        "evaluation",
        LOSSES,
        weights_key(recipe),
        True,
        "cpu",
    )
    assert row.examples == EXAMPLES
    assert row.supervised == sum(entry.tokens for entry in found.values())
    assert row.tokens == sum(
        data.prepared["full"].positions for data in session.models.data.values()
    )
    assert row.wall_seconds > 0 and row.device_seconds > 0 and row.peak_bytes > 0
    assert session.losses(recipe) == found
    assert len(spent(session)) == 1  # from the book: it cost nothing


def test_sliding_costs_the_losses_of_the_composition_and_the_ends_of_its_axes(session):
    recipe = session.recipe((0.5, 0.25, 0.0))
    list(measuring(session, recipe))
    rows = {(row.name, row.digest): row for row in spent(session)}
    # With the few examples that are measured first: they are a part of all.
    row = rows[LOSSES, weights_key(recipe)]
    assert row.examples == EXAMPLES
    assert row.tokens == sum(
        data.prepared["full"].positions for data in session.models.data.values()
    )
    assert rows[LOSSES, weights_key(session.recipe((0.0, 0.0, 0.0)))].examples == EXAMPLES
    # bob's own dataset only: no whole sweep
    assert rows[LOSSES, weights_key(session.recipe((0.0, 1.0, 0.0)))].examples == 23
    assert len(rows) == 1 + 1 + 3
    found = prices(session.ledger.phases(), ["ada"], examples=EXAMPLES)
    assert len(found.tries) == 2  # the composition, and the base
    list(measuring(session, recipe))
    assert len(spent(session)) == len(rows)  # all of it was known


def test_the_few_examples_alone_are_quick_losses_and_the_rest_is_paid_for_later(session):
    recipe = session.recipe((0.5, 0.25, 0.0))
    few = session.losses(recipe, "quick")
    whole = session.losses(recipe)
    first, second = spent(session)
    assert (first.name, first.examples) == (QUICK_LOSSES, sum(loss.n for loss in few.values()))
    assert (second.name, second.examples) == (LOSSES, EXAMPLES - first.examples)
    assert second.supervised == sum(whole[name].tokens - few[name].tokens for name in few)


def test_a_small_validation_set_is_measured_once_and_is_a_whole_sweep(session, world):
    """With no more examples than a quick measurement has, the quick one is the whole one."""
    data = world / "small"
    for name in ("ada", "bob"):
        (data / name).mkdir(parents=True)
        lines = (world / "data" / name / "validation.jsonl").read_text().splitlines(keepends=True)
        (data / name / "validation.jsonl").write_text("".join(lines[:5]))
    try:
        session.open(world / "base", [(world / "ada", None)], data)
        recipe = session.recipe((0.5,))
        list(measuring(session, recipe))
    finally:
        shutil.rmtree(data)
    (row,) = [row for row in spent(session) if row.digest == weights_key(recipe)]
    assert (row.name, row.examples) == (LOSSES, 10)


def test_an_overtaken_measurement_is_paid_for_and_is_no_price(session):
    calls = iter([False] * 6 + [True] * 99)  # stale somewhere in the first sweep
    lock = threading.Lock()

    def stale():
        with lock:
            return next(calls)

    with pytest.raises(Stopped):
        list(measuring(session, session.recipe((0.5, 0.25, 0.1)), stale))
    rows = spent(session)
    assert rows
    assert any(not row.complete for row in rows)
    assert prices(session.ledger.phases(), ["ada"], examples=EXAMPLES).tries == []


def test_a_page_that_leaves_in_the_middle_still_leaves_a_row(session):
    stream = measuring(session, session.recipe((0.5, 0.25, 0.2)))
    for points in stream:
        if points:
            break
    assert spent(session) == []
    stream.close()
    assert {row.name for row in spent(session)} >= {QUICK_LOSSES}


def test_interference_and_baselines_are_paid_for(session):
    list(session.interference())
    assert [(row.name, row.examples) for row in spent(session)] == [(LOSSES, EXAMPLES)] * 3
    session.baselines()
    assert (
        sum(row.examples for row in spent(session)[3:]) == EXAMPLES
    )  # the base; each expert's own loss is known by now


def test_an_export_is_a_row_with_its_folder(session):
    recipe = session.recipe((0.5, -0.25, 0.75))
    job = session.jobs.wait(export.submit(session, recipe, "first", "bfloat16").id)
    assert job.state == "done", job.error
    (row,) = spent(session)
    assert (row.kind, row.name, row.output, row.digest) == (
        "export",
        "first",
        str((session.workdir.root / "exports/first").resolve()),
        weights_key(recipe),
    )
    assert row.complete and row.wall_seconds > 0


def test_all_previews_of_a_move_are_one_row(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        spending = LossLedger(ledger, "cpu")
        spending.flush()
        for _ in range(3):
            with spending.preview() as meter:
                meter.count(36, 500, 70)
        assert ledger.phases() == []
        with spending.tally():
            pass  # the measurement that follows a move, of which all was known
        with spending.preview():
            pass
        spending.flush()
        spending.flush()
        first, second = ledger.phases()
    assert (first.name, first.examples, first.tokens, first.supervised, first.settings) == (
        PREVIEWS,
        108,
        1500,
        210,
        3,
    )
    assert (second.examples, second.settings) == (0, 1)


def test_the_key_names_the_weights(session):
    models = session.models
    recipe = session.recipe((0.5, 0.0, 0.0))
    assert weights_key(parse_recipe(recipe_yaml(recipe))) == weights_key(recipe)
    session.remove("bob")
    assert session.recipe((0.5, 0.0)).digest != recipe.digest
    assert weights_key(session.recipe((0.5, 0.0))) == weights_key(recipe)
    others = [
        models.recipe((0.51, 0.0, 0.0)),
        models.recipe((0.0, 0.5, 0.0)),
        Recipe(recipe.base, recipe.models, inputs={**recipe.inputs, "ada": "another file"}),
        Recipe(recipe.base, recipe.models, inputs={**recipe.inputs, "base": "another base"}),
        Recipe(recipe.base, recipe.models, inputs=recipe.inputs, out_dtype="bfloat16"),
        Recipe(recipe.base, recipe.models, inputs=recipe.inputs, seed=1),
        Recipe(recipe.base, recipe.models, inputs=recipe.inputs, exclude=("norm",)),
        Recipe(recipe.base, recipe.models, "linear", inputs=recipe.inputs),
    ]
    assert len({weights_key(other) for other in [recipe, *others]}) == 9
    bare = Recipe("b", (recipe.models[0],))
    assert weights_key(bare) == weights_key(Recipe("b", recipe.models[:2]))
    assert weights_key(bare) != weights_key(Recipe("c", (recipe.models[0],)))


def test_a_checkpoint_that_is_called_base_is_not_taken_for_the_base(session, world):
    session.add_checkpoint(world / "bob", "base")
    one = session.recipe({"base": 1.0})
    changed = Recipe(one.base, one.models, inputs={**one.inputs, "model base": "another"})
    assert weights_key(one) != weights_key(changed) != weights_key(session.recipe({}))


def test_the_ledger_of_a_closed_session_holds_the_last_previews(session):
    with session.spending.preview() as meter:
        meter.count(1)
    path = session.ledger.path
    session.close()
    with Ledger(path) as ledger:
        assert [row.name for row in ledger.phases()] == [PREVIEWS]


@pytest.mark.parametrize("damage", [b"not a database at all" * 99])
def test_a_damaged_ledger_does_not_keep_a_session_from_opening(damage, tmp_path, world, caplog):
    from workbench.session.session import Session

    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "ledger.sqlite").write_bytes(damage)
    made = Session([], tmp_path / "w", demo=world)
    made.close()
    assert "a new cost ledger was started" in caplog.text
