"""Has the points of a search measured by several workers, and puts the results into the workdir.

The search itself does not change: it asks for one point after another and reads its losses. Before
it reads them, it waits here until they are in the cache. Meanwhile the workers measure the points
that the searcher has handed out beyond this one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.errors import SessionError
from workbench.session.loss_on_axis import FULL
from workbench.workers.executor import Executor, WorkerLost
from workbench.workers.unit import Unit, keep

if TYPE_CHECKING:
    from evaluation.search import Searcher
    from merging.recipe import Recipe
    from workbench.search.points import Points
    from workbench.session.models import Models
    from workbench.session.session import Session
    from workbench.session.tickets import Stale

PAUSE_SECONDS = 0.02
TRIES = 2
"""How many workers may die of a unit before its trial has failed. A worker may be killed for other
reasons than its unit, such as memory that somebody else took."""


class Ahead:
    """Measures points on workers before the search reads them.

    Args:
        session: its workdir gets the results.
        models: the open models.
        points: of the search; counts what is measured.
        executor: has units measured.
    """

    def __init__(self, session: Session, models: Models, points: Points, executor: Executor):
        self._session, self._models, self._points = session, models, points
        self._executor = executor
        # By Unit.id, in the order of submitting.
        self._waiting: dict[str, Unit] = {}
        self._tries: Counter[str] = Counter()
        self._failed: dict[str, str] = {}

    def ends(self, stale: Stale) -> None:
        """Measures the base and the experts, which the search reads first.

        Raises:
            Stopped: `stale` became true.
            SessionError: one of them cannot be measured.
        """
        models = self._models
        units = [self._unit(models.recipe({}), models.data, False)]
        units += [
            self._unit(models.recipe({name: 1.0}), [name], False)
            for name in models.data
            if name in models.vectors
        ]
        for unit in units:
            self._start(unit)
        before = self._points.measured
        for unit in units:
            if problem := self._wait(unit, stale):
                raise SessionError(f"the base and the experts are measured first: {problem}")
        # They are no points of the search.
        self._points.measured = before

    def wait_for(
        self, point: dict[str, float], searcher: Searcher, room: int, gradients: bool, stale: Stale
    ) -> str:
        """Waits until a point is in the cache; meanwhile others are measured too.

        Args:
            point: what the searcher asks for.
            searcher: gives points that are free.
            room: how many points may be handed out in all that have no trial yet.
            gradients: whether derivatives are measured.
            stale: see Session.

        Returns:
            Why it cannot be measured; "" if it was.

        Raises:
            Stopped: `stale` became true.
            SessionError: no point can be measured.
        """

        def fill() -> None:
            # What is known already takes no worker, so it may take several rounds.
            while len(self._waiting) < self._executor.width:
                free = searcher.free(min(1, room - searcher.pending))
                if not free:
                    return
                self._start(self._unit_of(free[0], gradients))

        unit = self._unit_of(point, gradients)
        self._start(unit)
        return self._wait(unit, stale, fill)

    def stop(self) -> None:
        """Stores what has ended, and forgets what the workers still measure."""
        self._collect()
        for unit in self._waiting.values():
            self._executor.cancel(unit)
        self._waiting.clear()

    def _wait(self, unit: Unit, stale: Stale, fill: Callable[[], None] = lambda: None) -> str:
        """Collects results until one unit has ended, and returns its problem."""
        from evaluation.errors import Stopped

        while True:
            fill()
            self._collect()
            if unit.id not in self._waiting:
                return self._failed.pop(unit.id, "")
            if stale():
                raise Stopped("the search was stopped")
            time.sleep(PAUSE_SECONDS)

    def _collect(self) -> None:
        """Stores the results that are there; units of workers that died are submitted again.

        Raises:
            SessionError: no point can be measured.
        """
        for unit in list(self._waiting.values()):
            if not self._executor.poll(unit):
                continue
            try:
                result = self._executor.result(unit)
            except WorkerLost as error:
                self._tries[unit.id] += 1
                if self._tries[unit.id] < TRIES:
                    self._executor.submit(unit)
                    continue
                self._failed[unit.id] = f"{error} It was the second worker that this one cost."
            else:
                if result.fault:
                    raise SessionError(f"a worker cannot measure: {result.fault}")
                keep(result, self._session.book, self._session.ledger)
                self._points.measured += not result.problem
                if result.problem:
                    self._failed[unit.id] = result.problem
                # It is in the workdir now: whoever takes over must not store it again.
                self._executor.cancel(unit)
            del self._waiting[unit.id]

    def _start(self, unit: Unit) -> None:
        """Submits a unit, unless it is known or being measured."""
        if unit.id not in {*self._waiting, *self._failed} and not self._is_known(unit):
            self._waiting[unit.id] = unit
            self._executor.submit(unit)

    def _is_known(self, unit: Unit) -> bool:
        book = self._session.book
        if any(book.get(unit.composition, key) is None for key in unit.keys.values()):
            return False
        return not unit.gradients or self._points.knows_slopes(unit.composition)

    def _unit_of(self, point: dict[str, float], gradients: bool) -> Unit:
        return self._unit(self._points.recipe(point), self._models.data, gradients)

    def _unit(self, recipe: Recipe, datasets: Iterable[str], gradients: bool) -> Unit:
        """Returns the unit of a composition on some datasets."""
        from merging import recipe_yaml

        models = self._models
        assert models.data_folder is not None
        base = str(models.base.path.resolve())
        folders = {name: str(path.resolve()) for path, name in models.named_folders}
        # Workers may have another working directory.
        entries = tuple(
            replace(each, path=base, lora=folders[each.name])
            if each.lora
            else replace(each, path=folders[each.name])
            for each in recipe.models
        )
        return Unit(
            recipe_yaml(replace(recipe, base=base, models=entries)),
            str(models.data_folder.resolve()),
            {name: models.data[name].keys[FULL] for name in datasets},
            models.identity(recipe),
            gradients,
            self._points.groups if gradients else "",
        )
