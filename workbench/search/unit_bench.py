"""What a worker does: opens the models of a unit, measures it, returns what the cache stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.search.coordinates import grouped_vectors, whole_vectors
from workbench.search.points import Points
from workbench.session.keys import parts_text
from workbench.session.loss_on_axis import FULL
from workbench.session.standing import Choice
from workbench.workers.executor import Seat
from workbench.workers.unit import Unit, UnitResult

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session


@contextmanager
def open_bench(seat: Seat) -> Iterator[UnitBench]:
    """Gives a bench on a workdir of its own, which only this worker writes to.

    A cache in SQLite that several machines write to over a network disk can be damaged.
    """
    import torch

    from workbench.session.session import Session

    if seat.threads:
        torch.set_num_threads(seat.threads)
    session = Session([], seat.scratch, device=device_of(seat.number))
    try:
        yield UnitBench(session)
    finally:
        session.close()


def device_of(number: int) -> str:
    """Returns the torch device of a worker: the CPU, or one device after another in turn."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{number % count}" if count else "cpu"


class UnitBench:
    """Measures units; the models stay open as long as units name the same ones.

    Args:
        session: the worker's own.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._opened: tuple[object, ...] = ()
        self._phases = 0

    def measure(self, unit: Unit, stale: Callable[[], bool]) -> UnitResult:
        """Returns the losses of a unit, or why they cannot be measured.

        Raises:
            Stopped: `stale` became true.
        """
        from evaluation.errors import Stopped
        from merging import parse_recipe
        from merging.errors import MergingError
        from workbench.errors import is_user_error

        failed = UnitResult(unit.id, unit.composition)
        try:
            recipe = parse_recipe(unit.recipe)
            models = self._models(recipe, unit)
        except Exception as error:
            if not is_user_error(error):
                raise
            return replace(failed, fault=str(error))
        # In the order of the unit, so that the same unit is measured in the same order everywhere.
        wanted = replace(models, data={name: models.data[name] for name in unit.keys})
        here = _here(wanted, recipe)
        try:
            self._points(wanted, here, unit).measure_recipe(here, unit.gradients, stale)
        except MergingError as error:
            return replace(failed, problem=str(error))
        except Exception as error:
            if isinstance(error, Stopped) or not is_user_error(error):
                raise
            return replace(failed, fault=str(error))
        return self._result(wanted, here, unit)

    def _models(self, recipe: Recipe, unit: Unit) -> Models:
        """Opens the models of a unit unless they are open, and checks that they are the right ones.

        Raises:
            SessionError: the files here are not those of whoever asks.
        """
        from workbench.errors import SessionError
        from workbench.session.opening import open_models

        # Some methods take the base as one more model.
        others = [each for each in recipe.models if each.location != recipe.base]
        checkpoints = [(Path(each.location), each.name) for each in others]
        opened = (recipe.base, *checkpoints, recipe.vocabulary, unit.data)
        if opened != self._opened:
            assert recipe.base is not None
            models = open_models(
                Path(recipe.base),
                checkpoints,
                Path(unit.data),
                device=self._session.device,
                vocabulary=recipe.vocabulary,
            )
            self._session.use(models)
            self._opened = opened
        models = self._session.models
        keys = {name: data.keys[FULL] for name, data in models.data.items()}
        same = models.identity(_here(models, recipe)) == unit.composition
        if not same or any(keys.get(name) != key for name, key in unit.keys.items()):
            raise SessionError(
                f"the files of {recipe.base}, of its checkpoints or of {unit.data} that a worker "
                "reads are not those of the search. Give every machine the same files by the same "
                "paths."
            )
        return models

    def _points(self, models: Models, recipe: Recipe, unit: Unit) -> Points:
        """Returns what measures a unit, with the coordinates of its derivatives."""
        choice = Choice(recipe.method, dict(recipe.parameters))
        if unit.groups:
            grouped = grouped_vectors(models, unit.groups)  # type: ignore[arg-type]
            return Points(self._session, models, grouped)
        return Points(self._session, models, whole_vectors(models, choice))

    def _result(self, models: Models, recipe: Recipe, unit: Unit) -> UnitResult:
        """Reads from the worker's workdir what belongs to a unit."""
        book = self._session.book
        entries = {key: book.get(unit.composition, key) for key in unit.keys.values()}
        self._session.spending.flush()
        phases = self._session.ledger.phases()
        new = [asdict(phase) | {"id": None} for phase in phases[self._phases :]]
        self._phases = len(phases)
        slopes = {key: book.slopes(unit.composition, key) for key in unit.keys.values()}
        return UnitResult(
            unit.id,
            unit.composition,
            models.base.identity,
            parts_text(recipe, models.identities) or "",
            {key: entry for key, entry in entries.items() if entry is not None},
            slopes if unit.gradients else {},
            tuple(new),
        )


def _here(models: Models, recipe: Recipe) -> Recipe:
    """Returns a recipe with the folders of the models that are open here."""
    from merging.recipe.parts import ModelEntry

    own = {each.name: each for each in models.start.models}
    own[models.base_name] = ModelEntry(models.start.base or "", models.base_name)
    entries = tuple(replace(own[each.name], parameters=each.parameters) for each in recipe.models)
    return replace(models.start, models=entries, method=recipe.method, parameters=recipe.parameters)
