"""HTML and CSV of a comparison: the table, what is not measured, the cost of DEM and mixing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from plumbing import units
from workbench.comparison.table import best_positions
from workbench.line.contract import standing_of_recipe, state_of
from workbench.page.tabs import markup
from workbench.reports.comparison import cost_notes, unrecorded

if TYPE_CHECKING:
    from evaluation.records.cost_table import CostTable
    from evaluation.records.loss_cache import Entry
    from evaluation.records.prices import Cost
    from workbench.comparison.contender import Contender
    from workbench.comparison.table import Comparison, Row
    from workbench.session.models import Models

CURRENT = "this composition"
STAR = Markup(
    '<i class="best" title="best of the column">'
    '<span aria-hidden="true">★</span><span>best</span></i>'
)
NO_STAR = Markup('<i class="best"></i>')
"""As wide as a star, so that the figures of a column stay aligned."""


def table_html(comparison: Comparison, models: Models, added: Sequence[str]) -> Markup:
    """Returns the table with legend, notes and a button that copies it as CSV.

    Rows whose names are in `added` get a button that removes them.
    """
    losses = [[line.losses[name] for line in comparison.lines] for name in comparison.datasets]
    columns = [
        _measured([entry and (entry.value, entry.stderr) for entry in row], lower=True)
        for row in losses
    ]
    head = list(comparison.datasets)
    if comparison.datasets:
        columns.append(_measured([line.mean for line in comparison.lines], lower=True))
        head.append("mean")
    columns += [
        list(column) for column in zip(*(_seconds(line) for line in comparison.lines), strict=True)
    ]
    head += ["train, s", "eval, s"]
    for column in comparison.columns:
        scores = [line.scores[column] for line in comparison.lines]
        counts = [None if score is None else score.n for score in scores]
        values = [score and (score.value, score.stderr) for score in scores]
        columns.append(_measured(values, column.lower_is_better, counts))
        head.append(column.title)
    head = ["model", "action", *head]
    rows = [
        [_name(line.contender, models), _actions(line, models, added), *cells]
        for line, *cells in zip(comparison.lines, *columns, strict=True)
    ]
    table = markup.table(
        head, rows, numeric=range(2, len(head)), label="Checkpoints and compositions"
    )
    return Markup(
        "<header class='row-head'><h2>Side by side</h2>{}</header><div class='compared'>{}</div>"
        "<p class='lead'>Loss in nats per token{}. Scores are lm-eval's, with the number of "
        "examples in brackets. ± is the standard error; smaller differences may be chance. "
        "★ marks the best of a column. Train and eval are device seconds: training of all "
        "checkpoints of the row, and its evaluation.</p>{}"
    ).format(
        markup.copier("copy as CSV", csv(comparison)),
        table,
        _counts(losses),
        _notes_html((*comparison.notes, *unrecorded(comparison))),
    )


def _measured(
    values: Sequence[tuple[float, float] | None], lower: bool, counts: Sequence[int | None] = ()
) -> list[Markup]:
    """Returns the cells of one column, the best ones with a star.

    Args:
        values: value and standard error per row; None if it was not measured.
        lower: whether lower values are better.
        counts: numbers of examples per row, or empty to show none.
    """
    top = best_positions([None if value is None else value[0] for value in values], lower)
    cells = []
    for row, measured in enumerate(values):
        if measured is None:
            cells.append(
                Markup('<span class="quiet" title="not measured">–</span>{}').format(NO_STAR)
            )
            continue
        value, stderr = measured
        count = Markup(" <small>({})</small>").format(counts[row]) if counts else Markup("")
        number = Markup("<b>{}</b>" if row in top else "{}").format(units.number(value))
        error = Markup(" <small>±{}</small>").format(units.number(stderr))
        cells.append(
            Markup("{}{}{}{}").format(number, error, count, STAR if row in top else NO_STAR)
        )
    return cells


def _counts(losses: Sequence[Sequence[Entry | None]]) -> str:
    """Returns the number of examples per loss, as an addition to a sentence; "" without losses."""
    counts = {entry.dataset: entry.n for row in losses for entry in row if entry is not None}
    if len(set(counts.values())) == 1:
        return f", n = {next(iter(counts.values()))} examples of each dataset"
    each = ", ".join(f"{count} ({name})" for name, count in counts.items())
    return f", n = {each}" if counts else ""


def _name(contender: Contender, models: Models) -> Markup:
    """Returns the name of a row; its formula, which is long, is the tooltip."""
    from merging.recipe.formula import formula

    if contender.kind == "checkpoint":
        colour = models.names.index(contender.name)
        return Markup('<span class="who">{}<span>{}</span></span>').format(
            markup.swatch(colour), contender.name
        )
    name = CURRENT if contender.kind == "current" else contender.name
    title = contender.folder or formula(contender.recipe)
    kind = Markup(" <small>{}</small>").format(contender.kind) if contender.folder else Markup("")
    return Markup('<span class="clip" title="{}">{}</span>{}').format(title, name, kind)


def _seconds(line: Row) -> list[Markup]:
    """Returns the device seconds of training and evaluation; evaluation is 0 if there was none."""
    spent = line.expense
    unknown = Markup('<span class="quiet" title="not recorded: {}">–</span>').format(
        ", ".join(spent.unrecorded)
    )
    training = (
        unknown if spent.training_device is None else Markup(units.number(spent.training_device, 1))
    )
    return [training, Markup(units.number(spent.evaluation_device, 1))]


def _actions(line: Row, models: Models, added: Sequence[str]) -> Markup:
    """Returns the button of a row: remove an added model, or move the sliders to a composition."""
    contender = line.contender
    if contender.kind == "model" and contender.name in added:
        words = f"Remove {contender.name} from the comparison"
        # The page's script passes the press on to the hidden button that `data-press` names.
        return Markup(
            '<button type="button" class="copy" data-press="compare-remove" data-value="{}" '
            'aria-label="{}">remove</button>'
        ).format(contender.name, words)
    if contender.folder is None and contender.kind != "current":
        standing = standing_of_recipe(contender.recipe, models)
        if standing:
            # The page's script moves the sliders there, as one step that can be undone.
            state = json.dumps(state_of(standing, models), ensure_ascii=False)
            return Markup(
                '<button type="button" class="copy" data-go="{}" '
                'aria-label="Move the sliders to {}">use</button>'
            ).format(state, contender.name)
    return Markup("")


def _notes_html(notes: Sequence[str]) -> Markup:
    if not notes:
        return Markup("")
    return Markup('<ul class="notes">{}</ul>').format(
        markup.join(Markup("<li>{}</li>").format(note) for note in notes)
    )


def csv(comparison: Comparison) -> str:
    """Returns the table as CSV, one number per cell; a cell is empty if nothing was measured."""
    from merging.recipe.formula import formula

    head = ["model", "kind", "formula", "recipe"]
    for name in comparison.datasets:
        head += [f"{name} loss", f"{name} loss stderr", f"{name} loss n"]
    head += ["mean loss", "mean loss stderr"] if comparison.datasets else []
    for column in comparison.columns:
        head += [column.title, f"{column.title} stderr", f"{column.title} n"]
    head += ["training wall s", "training device s", "evaluation wall s", "evaluation device s"]
    rows = []
    for line in comparison.lines:
        contender = line.contender
        recipe = contender.recipe
        row: list[object] = [contender.name, contender.kind, formula(recipe), recipe.digest]
        for entry in (*line.losses.values(),):
            row += ["", "", ""] if entry is None else [entry.value, entry.stderr, entry.n]
        row += [] if not comparison.datasets else ["", ""] if line.mean is None else [*line.mean]
        for score in line.scores.values():
            row += ["", "", ""] if score is None else [score.value, score.stderr, score.n]
        row += ["" if value is None else value for value in line.expense[:4]]
        # "nan" and "inf" are text to most readers of CSV.
        rows.append(
            ["" if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row]
        )
    return markup.csv(head, rows)


def missing_html(missing: Sequence[str]) -> Markup:
    """Returns a message about what is not measured, one line per kind of measurement."""
    if not missing:
        return markup.message(
            "Every loss and every score in this table is measured.", "done", "Complete"
        )
    return markup.message("\n".join(missing), title="Not measured yet")


def costs_html(costs: CostTable) -> Markup:
    """Returns the cost table of DEM and data mixing, as Table 8 of the paper (arXiv 2406.15570).

    Projected figures are marked by italics and by a ~, so that colour alone carries nothing.
    """
    # Without a single price the table would be all dashes; the notes name what is missing.
    if not any(row.dem or row.mixing for row in costs.rows):
        return Markup("<h2>What DEM and data mixing cost</h2>{}").format(
            markup.message("\n".join(cost_notes(costs)), title="Not known yet")
        )
    head, *rows = costs.cells()
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
        "<p class='lead'>Cost in {} by the number of settings that are tried. DEM trains each "
        "expert once and tries values of ω; mixing trains again for every set of proportions. "
        "Ratios are mixing over DEM. Plain figures were measured; "
        '<i class="projected">~ italic figures</i> are projected from the mean of those.</p>{}{}'
    ).format(
        markup.copier("copy as CSV", costs_csv(costs)),
        costs.unit.replace("_", " "),
        table,
        _notes_html(cost_notes(costs)),
    )


def costs_csv(costs: CostTable) -> str:
    """Returns the cost table as CSV, with a column per cost: measured, projected or unknown."""
    names = ("dem", "mixing", "ratio", "untuned", "untuned_ratio")
    head = ["settings", *(cell for name in names for cell in (name, f"{name} is"))]
    rows = [
        [row.settings, *(cell for name in names for cell in _pair(getattr(row, name)))]
        for row in costs.rows
    ]
    return markup.csv(head, rows)


def _pair(cost: Cost | None) -> Sequence[object]:
    return ("", "unknown") if cost is None else cost


def silhouettes_html(by_label: Mapping[str, float], names: Sequence[str], by: str) -> Markup:
    """Returns the table of silhouettes, one row per group.

    Args:
        by_label: group -> silhouette, -1 to 1.
        names: all groups in the order of their colours.
        by: what the examples are grouped by, for the heading.
    """
    rows: list[list[object]] = [
        [
            Markup('<span class="who">{}<span>{}</span></span>').format(
                markup.swatch(names.index(name)), name
            ),
            units.number(value),
        ]
        for name, value in by_label.items()
    ]
    return markup.table([by, "silhouette"], rows, numeric=[1], label=f"Silhouette of {by}")
