"""What follows from a wish: composing, quick losses, an answer to the prompt, full losses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from workbench import commands
from workbench.errors import is_user_error
from workbench.line.continuation import asked_of, continuation
from workbench.line.contract import (
    Wish,
    mean_message,
    point_message,
    standing_of,
    state_of,
)
from workbench.line.description import best_preset
from workbench.line.formula_parts import formula_parts
from workbench.line.scheduler import Phase, Rank
from workbench.search.coordinates import whole_vectors
from workbench.search.points import Points, measures_slopes
from workbench.session.loss_on_axis import FULL, QUICK, LossOnAxis
from workbench.session.losses import SLICE
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.session import Session
    from workbench.session.standing import Standing

Message = dict[str, Any]


TEXT = 0.25
"""Seconds for the answer to the prompt, for each second in which quick losses are measured."""


class Answer:
    """The answer to one wish, as phases for the scheduler.

    Args:
        session: the session.
        wish: what the page wants to see.
        settled: the recipe that the page settled last, on which a moving adapter is mounted; None
            if there is none.
        stale: True once the page has sent a newer wish.
        waited: True while another page waits for something more urgent than derivatives.

    Attributes:
        recipe: the recipe of the wish, once the first step has made it.
    """

    def __init__(
        self,
        session: Session,
        wish: Wish,
        settled: Recipe | None,
        stale: Stale,
        waited: Callable[[], bool] = lambda: False,
    ):
        self._session, self._wish, self._settled, self._waited = session, wish, settled, waited
        self._models, self._stale = session.models, stale
        self.recipe: Recipe | None = None
        self.standing: Standing | None = None

    def phases(self) -> Iterator[Phase]:
        """Yields the phases of the answer; see workbench.line.scheduler.

        Their messages have the keys `stage` and `turn`, and are listed in docs/page.md.

        Raises:
            SessionError, MergingError: the wish cannot be composed. The message is for the user.
        """
        self.standing = standing_of(
            {
                "method": self._wish.method,
                "parameters": self._wish.parameters,
                "omegas": self._wish.omegas,
            },
            self._models,
        )
        recipe = self._models.recipe(self.standing.omegas, self.standing.choice)
        self._models.composer.check(recipe)
        self.recipe = recipe
        # A composition that is settled already needs no preview, but its exact losses.
        if self._wish.held and self._settled is not None and recipe != self._settled:
            previewed: list[bool] = []
            yield Rank.QUICK, self._preview(self._settled, recipe, previewed)
            if previewed:
                return
        with self._session.spending.tally() as tally, self._session.measuring.awaited():
            # An answer of the base beside this one would else take the module between two tokens.
            with self._session.urgent.held():
                yield Rank.SETTLE, self._settle(recipe)
                text = self._continuation(recipe) if self._wish.prompt.strip() else iter(())
                if self._models.data:
                    steps = self._losses(recipe, QUICK, tally)
                    yield Rank.QUICK, _with_pieces_of(text, steps)
                yield Rank.ANSWER, text
            # After the answer: the base and the experts are other compositions, and between two of
            # them each token would wait for a composition of its own.
            if self._models.data:
                yield Rank.FULL, self._losses(recipe, FULL, tally)
        # Not in the tally: derivatives have rows of their own in the ledger.
        for omegas in self._without_slopes():
            yield Rank.SLOPES, self._slopes(recipe, omegas)

    def _settle(self, recipe: Recipe) -> Iterator[Message | None]:
        begin = time.monotonic()
        with self._session.composed(self._models, recipe, self._stale):
            pass
        seconds = time.monotonic() - begin
        self._session.measuring.throughput(self._models).composed(seconds)
        yield self._message("settled", recipe, seconds=seconds)

    def _preview(
        self, settled: Recipe, recipe: Recipe, previewed: list[bool]
    ) -> Iterator[Message | None]:
        """Measures quick losses with the moving adapters mounted, without writing a weight."""
        from merging.errors import NotMounted

        try:
            points = self._session.preview(settled, recipe, self._stale)
        # This move has to be composed; the next phase does so.
        except NotMounted:
            return
        # Without a dataset whose ends are known there is nothing to show before the settled move.
        if points:
            previewed.append(True)
            yield self._message("preview", recipe) | self._bars(points)

    def _losses(self, recipe: Recipe, size: str, tally: Any) -> Iterator[Message | None]:
        """Measures the losses on every dataset, step by step."""
        begin = time.monotonic()
        for update in self._session.measuring.steps(self._models, recipe, size, self._stale, tally):
            if update is None:
                yield None
                continue
            points, measuring = update
            yield self._message(
                "full" if size == FULL else "quick",
                recipe,
                whole=len(points) == len(self._models.data)
                and all(point.exact for point in points.values()),
                measuring=measuring and measuring._asdict(),
                seconds=time.monotonic() - begin,
                **self._bars(points),
            )
        if size == FULL and self._models.data_folder:
            saved = self._session.workdir.save_recipe(recipe)
            command = commands.loss(saved, self._models.data_folder)
            # This composition may be better than what was the best so far.
            best = best_preset(self._session) if self._session.models is self._models else None
            yield self._message("command", recipe, command=command, best=best)
        if size == FULL:
            yield self._message("learned", recipe)

    def _without_slopes(self) -> list[Mapping[str, float]]:
        """Returns the points whose derivatives are worth measuring while nobody waits.

        They are this composition and the base. It is [] where that would take long or much memory.
        """
        assert self.standing is not None
        chosen = whole_vectors(self._models, self.standing.choice)
        points = Points(self._session, self._models, chosen)
        device = self._session.device
        if not (
            self._models.data and points.has_gradients and measures_slopes(self._models, device)
        ):
            return []
        names = self._models.names
        both = dict(zip(names, self.standing.omegas, strict=True)), dict.fromkeys(names, 0.0)
        return [omegas for omegas in both if not points.has_slopes(omegas)]

    def _slopes(self, recipe: Recipe, omegas: Mapping[str, float]) -> Iterator[Message | None]:
        session = self._session

        def others() -> bool:
            # Who waits for a table of losses, or for an answer elsewhere, is no page of the
            # scheduler.
            return session.measuring.busy or session.module_wanted

        def waited() -> bool:
            return others() or self._waited()

        steps = Points(session, self._models).slope_steps(omegas, self._stale, waited)
        while True:
            while others():
                time.sleep(SLICE)
                yield None
            if next(steps, _END) is _END:
                break
            yield None
        yield self._message("learned", recipe)

    def _continuation(self, recipe: Recipe) -> Iterator[Message | None]:
        """Answers the prompt, one piece of text per step."""
        begin, text, count = time.monotonic(), "", 0

        def said(growing: bool, form: str, problem: str = "") -> Message:
            seconds = time.monotonic() - begin
            more = {"text": text, "tokens": count, "seconds": seconds, "growing": growing}
            return self._message("answer", recipe, form=form, problem=problem, **more)

        models, stale = self._models, self._stale
        try:
            asked = asked_of(models, self._wish.prompt, self._wish.plain)
            for piece in continuation(self._session, models, recipe, asked, stale=stale):
                text, count = text + piece, count + 1
                yield said(growing=True, form=asked.form)
        # A question that cannot be asked is no fault of the composition, which stays with its
        # losses.
        except Exception as error:
            if not is_user_error(error):
                raise
            yield said(growing=False, form="", problem=str(error))
        else:
            yield said(growing=False, form=asked.form)

    def _message(self, stage: str, recipe: Recipe, **more: Any) -> Message:
        message: Message = {
            "turn": self._wish.turn,
            "stage": stage,
            "digest": recipe.digest,
            **more,
        }
        if stage in ("settled", "preview"):
            assert self.standing is not None
            message |= {
                "state": state_of(self.standing, self._models),
                "formula": formula_parts(recipe),
            }
        return message

    def _bars(self, points: Mapping[str, LossOnAxis]) -> Message:
        return {
            "points": {name: point_message(name, point) for name, point in points.items()},
            "mean": mean_message(points, len(self._models.data)),
        }


def _with_pieces_of(
    text: Iterator[Message | None], steps: Iterator[Message | None]
) -> Iterator[Message | None]:
    """Takes all the steps, and after each some pieces of a text, so that it begins at once."""
    while True:
        begin = time.monotonic()
        try:
            message = next(steps)
        except StopIteration:
            return
        yield message
        now = time.monotonic()
        until = now + TEXT * (now - begin)
        while now < until and (piece := next(text, None)) is not None:
            yield piece
            now = time.monotonic()


_END = object()
