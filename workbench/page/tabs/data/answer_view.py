"""What the answers of all three questions show alike: downloads, and the view of a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from workbench.influence_runs import data_answers
from workbench.page.tabs import markup
from workbench.page.tabs.wiring import Updates
from workbench.session.session import Session


@dataclass(frozen=True)
class AnswerView:
    """The components that show the answer of a question.

    Attributes:
        components: all of them.
        show: returns updates of the components for a run's name and the theme.
    """

    components: Sequence[Any]
    show: Callable[[str, str], Updates]


def downloads(session: Session, question: str, name: str) -> Markup:
    """Returns links to the files of a run."""
    links = markup.join(
        (
            Markup('<a class="download" href="{}" download="{}">{}</a>').format(
                f"live/data/{question}/{quote(name)}/{quote(file)}", file, f"Download {file}"
            )
            for file in data_answers.files(session.workdir, question, name)
        ),
        " ",
    )
    return Markup('<p class="downloads">{}</p>').format(links)
