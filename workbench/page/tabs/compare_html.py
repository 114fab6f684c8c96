"""How a comparison looks: the table of all rows, what is missing, and what DEM and mixing cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from plumbing import units
from workbench.comparison.table import best
from workbench.page.tabs import markup
from workbench.reports.comparison import cost_notes, unrecorded

if TYPE_CHECKING:
    from evaluation.records.cost_table import CostTable
    from evaluation.records.prices import Cost
    from workbench.comparison.contender import Contender
    from workbench.comparison.table import Comparison, Row
    from workbench.session.loss_cache import Entry
    from workbench.session.models import Models

HERE = "this composition"
STAR = Markup(
    '<i class="best" title="best of the column"><span aria-hidden="true">★</span><span>best</span></i>'
)
PLACE = Markup('<i class="best"></i>')


def table_html(found: Comparison, models: Models, added: Sequence[str]) -> Markup:
    """The table of all rows with its legend and a button that copies it."""
    losses = [[line.losses[name] for line in found.lines] for name in found.datasets]
    columns = [
        _measured([entry and (entry.value, entry.stderr) for entry in row], lower=True)
        for row in losses
    ]
    head = list(found.datasets)
    if found.datasets:
        columns.append(_measured([line.mean for line in found.lines], lower=True))
        head.append("mean")
    columns += [
        list(column) for column in zip(*(_seconds(line) for line in found.lines), strict=True)
    ]
    head += ["train, s", "eval, s"]
    for column in found.columns:
        scores = [line.scores[column] for line in found.lines]
        counts = [None if score is None else score.n for score in scores]
        values = [score and (score.value, score.stderr) for score in scores]
        columns.append(_measured(values, column.lower_is_better, counts))
        head.append(column.title)
    head = ["model", "action", *head]
    rows = [
        [_name(line.contender, models), _actions(line, models, added), *cells]
        for line, *cells in zip(found.lines, *columns, strict=True)
    ]
    table = markup.table(
        head, rows, numeric=range(2, len(head)), label="Checkpoints and compositions"
    )
    return Markup(
        "<header class='row-head'><h2>Side by side</h2>{}</header><div class='compared'>{}</div>"
        "<p class='lead'>Loss in nats per token{}; scores as lm-eval gives them, with the number of examples; each ± its "
        "standard error. Seconds of the device that training all checkpoints of a row took, and evaluating it. ★ is the best of its column; a difference below the standard errors may "
        "be chance.</p>{}"
    ).format(
        markup.copier("copy as CSV", csv(found)),
        table,
        _counts(losses),
        _notes((*found.notes, *unrecorded(found))),
    )


def _measured(
    values: Sequence[tuple[float, float] | None], lower: bool, counts: Sequence[int | None] = ()
) -> list[Markup]:
    """The cells of one column; the best of it bears a star, the others its room, so that figures stay in line."""
    top = best([None if value is None else value[0] for value in values], lower)
    cells = []
    for place, found in enumerate(values):
        if found is None:
            cells.append(
                Markup('<span class="quiet" title="not measured">–</span>{}').format(PLACE)
            )
            continue
        value, stderr = found
        count = Markup(" <small>({})</small>").format(counts[place]) if counts else Markup("")
        number = Markup("<b>{}</b>" if place in top else "{}").format(units.number(value))
        error = Markup(" <small>±{}</small>").format(units.number(stderr))
        cells.append(
            Markup("{}{}{}{}").format(number, error, count, STAR if place in top else PLACE)
        )
    return cells


def _counts(losses: Sequence[Sequence[Entry | None]]) -> str:
    """On how many examples the losses stand: ", n = 200 each", or a number for each dataset."""
    counts = {entry.dataset: entry.n for row in losses for entry in row if entry is not None}
    if len(set(counts.values())) == 1:
        return f", n = {next(iter(counts.values()))} examples of each dataset"
    return (
        f", n = {', '.join(f'{count} ({name})' for name, count in counts.items())}"
        if counts
        else ""
    )


def _name(contender: Contender, models: Models) -> Markup:
    """Who a row is; a formula is long, so that it is clipped and told whole in its title."""
    from merging.recipe.formula import formula

    if contender.kind == "checkpoint":
        place = models.names.index(contender.name)
        return Markup('<span class="who">{}<span>{}</span></span>').format(
            markup.swatch(place), contender.name
        )
    name = HERE if contender.kind == "current" else contender.name
    title = contender.folder or formula(contender.recipe)
    kind = Markup(" <small>{}</small>").format(contender.kind) if contender.folder else Markup("")
    return Markup('<span class="clip" title="{}">{}</span>{}').format(title, name, kind)


def _seconds(line: Row) -> list[Markup]:
    """What training and evaluating cost; evaluation is 0 where nothing was measured."""
    spent = line.expense
    unknown = Markup('<span class="quiet" title="not recorded: {}">–</span>').format(
        ", ".join(spent.unrecorded)
    )
    training = (
        unknown if spent.training_device is None else Markup(units.number(spent.training_device, 1))
    )
    return [training, Markup(units.number(spent.evaluation_device, 1))]


def _actions(line: Row, models: Models, added: Sequence[str]) -> Markup:
    """Move the sliders to a composition, or take an added model out; the page's script presses the hidden buttons."""
    contender = line.contender
    button = '<button type="button" class="copy" data-press="{}" data-value="{}" aria-label="{}">{}</button>'
    if contender.kind == "model" and contender.name in added:
        words = f"Remove {contender.name} from the comparison"
        return Markup(button).format("compare-remove", contender.name, words, "remove")
    if (
        contender.folder is None
        and contender.kind != "current"
        and models.standing_of(contender.recipe)
    ):
        words = f"Move the sliders to {contender.name}"
        return Markup(button).format("compare-use", contender.key, words, "use")
    return Markup("")


def _notes(notes: Sequence[str]) -> Markup:
    if not notes:
        return Markup("")
    return Markup('<ul class="notes">{}</ul>').format(
        markup.join(Markup("<li>{}</li>").format(note) for note in notes)
    )


def csv(found: Comparison) -> str:
    """The table with every number in a cell of its own; empty where nothing was measured."""
    from merging.recipe.formula import formula

    head = ["model", "kind", "formula", "recipe"]
    for name in found.datasets:
        head += [f"{name} loss", f"{name} loss stderr", f"{name} loss n"]
    head += ["mean loss", "mean loss stderr"] if found.datasets else []
    for column in found.columns:
        head += [column.title, f"{column.title} stderr", f"{column.title} n"]
    head += ["training wall s", "training device s", "evaluation wall s", "evaluation device s"]
    rows = []
    for line in found.lines:
        one = line.contender
        row: list[object] = [one.name, one.kind, formula(one.recipe), one.recipe.digest]
        for entry in (*line.losses.values(),):
            row += ["", "", ""] if entry is None else [entry.value, entry.stderr, entry.n]
        row += [] if not found.datasets else ["", ""] if line.mean is None else [*line.mean]
        for score in line.scores.values():
            row += ["", "", ""] if score is None else [score.value, score.stderr, score.n]
        row += ["" if value is None else value for value in line.expense[:4]]
        rows.append(
            ["" if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row]
        )
    return markup.csv(head, rows)


def missing_html(missing: Sequence[str]) -> Markup:
    """What is not measured, a line for each kind of measurement."""
    if not missing:
        return markup.message(
            "Every loss and every score of this table is measured.", "done", "Complete"
        )
    return markup.message("\n".join(missing), title="Not measured yet")


def costs_html(found: CostTable) -> Markup:
    """Table 8 for one's own runs; what is projected is marked, in slanted figures and by a ~."""
    if not any(row.dem or row.mixing for row in found.rows):
        return Markup("<h2>What DEM and data mixing cost</h2>{}").format(
            markup.message("\n".join(cost_notes(found)), title="Not known yet")
        )
    head, *rows = found.cells()
    cells = [
        [
            Markup('<i class="projected">{}</i>').format(cell) if cell[0] == "~" else cell
            for cell in row
        ]
        for row in rows
    ]
    table = markup.table(
        head, cells, numeric=range(len(head)), label="What DEM and data mixing cost"
    )
    return Markup(
        "<header class='row-head'><h2>What DEM and data mixing cost</h2>{}</header>"
        "<p class='lead'>In {}, as a function of how many settings are tried: of ω by DEM, which trains each expert once; of "
        "the proportions by mixing, which trains anew for each. Ratios are mixing over DEM. Plain figures were measured; "
        '<i class="projected">~ slanted ones</i> are projected from the mean of those.</p>{}{}'
    ).format(
        markup.copier("copy as CSV", costs_csv(found)),
        found.unit.replace("_", " "),
        table,
        _notes(cost_notes(found)),
    )


def costs_csv(found: CostTable) -> str:
    """The same with each cost and how it is known."""
    names = ("dem", "mixing", "ratio", "untuned", "untuned_ratio")
    head = ["settings", *(cell for name in names for cell in (name, f"{name} is"))]
    rows = [
        [row.settings, *(cell for name in names for cell in _pair(getattr(row, name)))]
        for row in found.rows
    ]
    return markup.csv(head, rows)


def _pair(cost: Cost | None) -> Sequence[object]:
    return ("", "unknown") if cost is None else cost


def silhouettes_html(by_label: Mapping[str, float], places: Sequence[str], by: str) -> Markup:
    """The silhouette of each dataset, or of each of what the examples are grouped by."""
    rows: list[list[object]] = [
        [
            Markup('<span class="who">{}<span>{}</span></span>').format(
                markup.swatch(places.index(name)), name
            ),
            units.number(value),
        ]
        for name, value in by_label.items()
    ]
    return markup.table([by, "silhouette"], rows, numeric=[1], label=f"Silhouette of {by}")
