"""HTML building blocks of the page. All text is escaped, so no name becomes markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from plumbing.units import MINUS


def omega(value: float) -> str:
    """Returns ω with two decimals and a true minus sign: -0.5 gives −0.50."""
    return f"{value:.2f}".replace("-", MINUS)


def join(parts: Iterable[Markup], by: str = "") -> Markup:
    """Returns the parts joined by `by`."""
    return Markup(by).join(parts)


def swatch(index: int) -> Markup:
    """Returns a square in the colour of a dataset; the eight colours repeat."""
    return Markup('<i class="swatch" style="--c:var(--dataset-{})"></i>').format(index % 8)


def command(line: str) -> Markup:
    """Returns a command line with a copy button."""
    return Markup(
        '<div class="cli"><span aria-hidden="true">$</span><code tabindex="0">{}</code>'
        '<button type="button" class="copy" data-copy="{}" aria-label="Copy the command">copy'
        "</button></div>"
    ).format(line, line)


def copier(label: str, text: str) -> Markup:
    """Returns a button that copies `text`."""
    return Markup('<button type="button" class="copy" data-copy="{}">{}</button>').format(
        text, label
    )


def message(text: str, kind: str = "note", title: str = "") -> Markup:
    """Returns a message of the kind note, warning, problem or done; line breaks are kept."""
    head = Markup("<strong>{}</strong>").format(title) if title else ""
    lines = Markup("<br>").join(text.splitlines() or [""])
    role = Markup(' role="alert"') if kind == "problem" else ""
    return Markup('<div class="message {}"{}>{}<p>{}</p></div>').format(kind, role, head, lines)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    numeric: Sequence[int] = (),
    label: str,
) -> Markup:
    """Returns a table whose columns are sorted by a press on their heading.

    Args:
        head: the headings. None is empty: it is a button, and a screen reader says its name.
        rows: the cells, row by row.
        numeric: indices of the columns that are aligned right.
        label: name of the table for screen readers.

    Raises:
        ValueError: a heading is empty.
    """
    if not all(head):
        raise ValueError(f"each column needs a heading, and the headings are {list(head)}.")

    def cell(tag: str, column: int, value: object) -> Markup:
        return Markup("<{0}{1}>{2}</{0}>").format(
            Markup(tag), Markup(' class="num"') if column in numeric else Markup(""), value
        )

    headers = join(
        Markup('<th scope="col"{}><button type="button" class="sort">{}</button></th>').format(
            Markup(' class="num"') if column in numeric else Markup(""), name
        )
        for column, name in enumerate(head)
    )
    body = join(
        Markup("<tr>{}</tr>").format(
            join(cell("td", column, value) for column, value in enumerate(row))
        )
        for row in rows
    )
    # Keyboards can scroll a region only if it can have the focus, hence tabindex.
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}"><table class="data">'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(label, headers, body)


def csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns the table as CSV.

    A cell that a spreadsheet would run as a formula is prefixed with an apostrophe: names of
    models and datasets may come from others.
    """

    def cell(value: object) -> str:
        text = str(value)
        if text[:1] in ("=", "+", "-", "@", "\t") and not _is_number(text):
            text = "'" + text
        return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text

    return "\n".join(",".join(map(cell, row)) for row in [head, *rows]) + "\n"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
