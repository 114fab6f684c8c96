"""HTML of the page's own pieces. Every name and message goes through markupsafe, so no name is ever markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from plumbing.units import MINUS


def omega(value: float) -> str:
    """ω with two decimals and a true minus sign: -0.5 gives −0.50."""
    return f"{value:.2f}".replace("-", MINUS)


def join(parts: Iterable[Markup], by: str = "") -> Markup:
    """Pieces of markup, joined."""
    return Markup(by).join(parts)


def swatch(index: int) -> Markup:
    """The square in a dataset's colour."""
    return Markup('<i class="swatch" style="--c:var(--dataset-{})"></i>').format(index % 8)


def command(line: str) -> Markup:
    """A command line with a copy button."""
    return Markup(
        '<div class="cli"><span aria-hidden="true">$</span><code tabindex="0">{}</code>'
        '<button type="button" class="copy" data-copy="{}" aria-label="Copy the command">copy</button></div>'
    ).format(line, line)


def copier(label: str, text: str) -> Markup:
    """A button that copies some text."""
    return Markup('<button type="button" class="copy" data-copy="{}">{}</button>').format(
        text, label
    )


def message(text: str, kind: str = "note", title: str = "") -> Markup:
    """A message inline: note, warning, problem or done. Each line of the text is a line."""
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
    """A table whose columns sort when their head is pressed; `numeric` columns stand right, in figures."""

    def cell(tag: str, place: int, value: object) -> Markup:
        return Markup("<{0}{1}>{2}</{0}>").format(
            Markup(tag), Markup(' class="num"') if place in numeric else Markup(""), value
        )

    headers = join(
        Markup('<th scope="col"{}><button type="button" class="sort">{}</button></th>').format(
            Markup(' class="num"') if place in numeric else Markup(""), name
        )
        for place, name in enumerate(head)
    )
    body = join(
        Markup("<tr>{}</tr>").format(
            join(cell("td", place, value) for place, value in enumerate(row))
        )
        for row in rows
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}"><table class="data"><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(label, headers, body)


def csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The same table as CSV. A cell that a spreadsheet would run as a formula is prefixed with an apostrophe."""

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
