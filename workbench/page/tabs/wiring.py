"""Shared by all parts of the page: listener options, the error dialog, common components."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from workbench.errors import is_user_error
from workbench.session.session import Session

if TYPE_CHECKING:
    from merging.recipe import Recipe

log = logging.getLogger(__name__)

UNEXPECTED = "Unexpected error. See the server log for details."

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Options of every listener: no public endpoint, no spinner over the content."""
EVERY_CHANGE: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
"""Options of a listener to a value: every change is answered, also during an earlier answer.

gradio's defaults do not do for this. "once" drops a change that comes during an answer.
"always_last" sends a whole event again for each listener that was behind, so two listeners of one
event that are both behind call each other for ever (gradio 6.31, `dispatch` in its page).
"""

Updates = dict[Any, Any]
"""What a listener returns: component -> new value or gradio update. Others stay as they are."""


def no_updates() -> Updates:
    """Returns the value that leaves all outputs of a listener as they are."""
    return dict(gr.skip())


def one_at_a_time(target: str) -> dict[str, Any]:
    """Returns the options of all listeners that write `target`: they run one after another."""
    return {"concurrency_limit": 1, "concurrency_id": target, **EVERY_CHANGE}


def start_clocks(began: Any, clocks: Sequence[gr.Timer]) -> None:
    """Starts clocks when a listener has begun a job.

    This is an answer of its own, after that of the listener: a tick that was answered just before
    the job began stops the clock, and would stop it for good if it came last.

    Args:
        began: the event of the listener that begins the job.
        clocks: those that show how the job goes.
    """
    began.success(
        lambda: {clock: gr.Timer(active=True) for clock in clocks},
        None,
        list(clocks),
        **EVERY_CHANGE,
    )


def clock_options(target: str) -> dict[str, Any]:
    """Returns the options of a clock's listener that writes `target`: late ticks do not pile up."""
    return {**one_at_a_time(target), "trigger_mode": "once"}


@dataclass(frozen=True)
class Board:
    """The components that several parts of the page read."""

    digest: gr.HTML
    """The digest of the composition that the page came to rest at. Tabs listen to its changes."""
    theme: gr.Textbox
    """The theme: "light" or "dark"."""
    opened: gr.Textbox
    """Changes whenever other models are opened."""


def at_rest(asked: Sequence[Any], board: Board) -> str:
    """Returns a script for a button that acts on the composition.

    It waits until the last move has settled and puts that composition's digest among the inputs, so
    that the button never acts on the one before.

    Args:
        asked: the inputs of the listener; `board.digest` is one of them.
        board: the page's shared components.
    """
    index = [component is board.digest for component in asked].index(True)
    return f"(...values) => window.dem.atRest(values.slice(0, {len(asked)}), {index})"


def opens_models(button: gr.Button, work: Callable[..., Any], inputs: Any, outputs: Any) -> None:
    """Connects a button whose listener opens other models.

    Until it has ended, the page's own line does not tell that it is behind: the page will follow.
    Two openings at once never run.
    """
    say = "(...values) => {{ window.dem.line.event({{ type: 'opening', opening: {} }}); {}}}"
    button.click(
        work,
        inputs,
        outputs,
        js=say.format("true", "return values; "),
        concurrency_id="open",
        concurrency_limit=1,
        trigger_mode="once",
        **QUIET,
    ).then(None, None, None, js=say.format("false", ""), **QUIET)


def with_error_dialog(work: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a listener so that an error is shown as a message on the page.

    A user error is shown in its own words. Any other is logged, and the message names the log.
    """

    def as_message(error: Exception) -> gr.Error:
        if is_user_error(error):
            # gradio renders the message as HTML, so a name in it must not become markup.
            return gr.Error(
                escape(str(error)).replace("\n", "<br>"),
                title="That did not work",
                duration=None,
                print_exception=False,
            )
        log.exception("a listener failed", exc_info=error)
        return gr.Error(UNEXPECTED, title="Error")

    if inspect.isgeneratorfunction(work):

        @functools.wraps(work)
        def stream(*values: Any) -> Any:
            try:
                yield from work(*values)
                # gradio sends the last answer again at the end, when it may be outdated.
                yield gr.skip()
            except gr.Error:
                raise
            except Exception as error:
                raise as_message(error) from None

        return stream

    @functools.wraps(work)
    def once(*values: Any) -> Any:
        try:
            return work(*values)
        except gr.Error:
            raise
        except Exception as error:
            raise as_message(error) from None

    return once


def current_recipe(session: Session, digest: str) -> Recipe:
    """Returns the recipe that the page shows. Every action of the page uses it.

    Args:
        session: the session.
        digest: of that recipe; "" before the page has come to rest for the first time.
    """
    return session.recall(digest)
