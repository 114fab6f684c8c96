"""Session: everything that can be done with the open models, for the page, the CLI and the tests.

It knows nothing about the page. One module is live in memory. A caller that needs it names the
recipe and gets the module under a lock, composed to exactly that recipe. So two pages can use it at
once, and no number is shown under the wrong ω. Work for a request that a newer one has replaced is
dropped at its next step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.errors import StoreError
from evaluation.records.ledger import Ledger
from evaluation.records.loss_cache import Entry, LossCache
from workbench.errors import SessionError
from workbench.session.folders import Folders
from workbench.session.interference import known_interference, measure_interference, take_shipped
from workbench.session.job_table import Jobs
from workbench.session.loss_on_axis import FULL, LossOnAxis
from workbench.session.losses import Losses
from workbench.session.models import OMEGA_RANGE, Models
from workbench.session.opening import demo_checkpoints, open_models
from workbench.session.shown import ShownRecipes
from workbench.session.spending import LossLedger
from workbench.session.standing import PLAIN, Choice, Standing
from workbench.session.tickets import CountedLock, Stale, Tickets, Urgent
from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from merging.recipe import Recipe

__all__ = ["OMEGA_RANGE", "Choice", "LossOnAxis", "Session", "Stale", "Standing"]

log = logging.getLogger(__name__)

KNOWN_LOSSES = "losses.json"
"""The file of a demo's folder with losses that were measured when it was built."""


class Session:
    """One workdir, the folders it may read, and the open models.

    Args:
        roots: folders that may be read, with everything in them; the demo's folder is one as well.
        workdir: folder where jobs, losses, runs, recipes and exports are kept; made if missing.
        demo: a folder with base/, one folder per checkpoint, data/ and recipe.yml; or None.
        device: torch device of the live module, such as "cpu" or "cuda:0".

    Attributes:
        jobs: the background jobs of the workdir.
        book: the losses that were measured in the workdir.
        ledger: what everything cost.
        measuring: measures losses on the live module.
        spending: writes the cost of measured losses to the ledger.
        shown: the recipes that pages show, by digest.
        tickets: tells which request of a page is the newest.
        urgent: held while a page waits for its composition, its quick losses or its answer.
        at_close: called when the session closes, before anything else ends.
        opened: set once models are open, or the demo could not be opened.
        problem: why the demo could not be opened; "" if nothing failed.
        announced: the checkpoints of the demo, from when it begins to be opened.
    """

    def __init__(
        self, roots: Sequence[Path], workdir: Path, demo: Path | None = None, device: str = "cpu"
    ):
        self.workdir = Workdir(Path(workdir))
        self.workdir.root.mkdir(parents=True, exist_ok=True)
        self.demo = demo
        self.folders = Folders([*([demo] if demo else []), *roots, self.workdir.trained])
        # A damaged file is moved aside and replaced by an empty one; the log reports it.
        self.jobs = Jobs(self.workdir.jobs, log.warning)
        self.device = device
        self.opened = threading.Event()
        self.problem = ""
        self.announced: Sequence[Path] = ()
        self.book = LossCache(self.workdir.losses, log.warning)
        self.ledger = Ledger(self.workdir.ledger, log.warning)
        self.spending = LossLedger(self.ledger, device)
        self._models: Models | None = None
        self._standing = Standing(())
        # Held by whoever reads or changes the live module; reentrant, as a measurement composes.
        self._model_lock = CountedLock()
        self.measuring = Losses(self.book, self._model_lock, self.spending)
        self.shown = ShownRecipes()
        self._open_lock = threading.Lock()
        self.tickets = Tickets()
        self.urgent = Urgent()
        self.at_close: list[Callable[[], None]] = []

    # the open models

    @property
    def models(self) -> Models:
        """The open models.

        Raises:
            SessionError: no models are open.
        """
        if self._models is None:
            raise SessionError(
                self.problem
                or "no models are open yet. Choose a base and checkpoints under Models."
            )
        return self._models

    @property
    def ready(self) -> bool:
        """Whether models are open."""
        return self._models is not None

    def open_demo(self) -> None:
        """Opens the demo; if that fails, keeps the reason in `problem`."""
        # It raises nothing: it runs in a thread while the page starts, where nobody would see it.
        try:
            if self.demo is None:
                return
            self.announced = demo_checkpoints(self.demo, self.folders)
            named = [(path, None) for path in self.announced]
            self.open(self.demo / "base", named, self.demo / "data")
        except Exception as error:
            log.exception("the demo could not be opened")
            self.problem = f"the demo could not be opened: {error}"
        finally:
            self.opened.set()

    def _read_losses(self, models: Models) -> None:
        """Takes in the losses that a demo ships with, so that they are not measured again."""
        file = models.base.path.parent / KNOWN_LOSSES
        if self.demo is None or self.demo.resolve() != file.parent:
            return
        if not self.folders.holds(file) or not file.is_file():
            return
        try:
            take_shipped(file, models, self.book)
        # They only save time: without them everything is measured.
        except StoreError as error:
            log.warning("%s", error)

    def open(
        self,
        base: str | Path,
        checkpoints: Sequence[tuple[str | Path, str | None]],
        data: str | Path | None = None,
        vocabulary: str = "refuse",
    ) -> Models:
        """Opens a base, its checkpoints and data; if anything fails, the open models stay open.

        Args:
            base, checkpoints, data, vocabulary: see open_models; all folders lie under a root.

        Raises:
            SessionError, MergingError, EvaluationError, CorpusError: nothing was opened.
        """
        with self._open_lock:
            allowed = [(self.folders.resolve(path), name) for path, name in checkpoints]
            folder = self.folders.resolve(data) if data else None
            folders = self.folders.resolve(base), allowed, folder
            models = open_models(
                *folders,
                device=self.device,
                vocabulary=vocabulary,
                reach=self.folders.reach,
            )
            self.use(models)
        return models

    def use(self, models: Models) -> None:
        """Replaces the open models by these, with their best known ω as the standing, or 0."""
        self._read_losses(models)
        with self._model_lock:
            self._models = models
            self.shown.clear()
            best = models.best or {}
            self._standing = Standing(tuple(best.get(name, 0.0) for name in models.names))
            self.problem = ""
            self.opened.set()

    def add_checkpoint(self, path: str | Path, name: str | None = None) -> Models:
        """Opens one more checkpoint on the same base; raises as `open` does."""
        models = self.models
        folders = [*models.named_folders, (path, name)]
        return self.open(models.base.path, folders, models.data_folder, models.start.vocabulary)

    def remove(self, name: str) -> Models:
        """Closes one vector.

        Raises:
            SessionError: no vector has this name, or it is the only one.
        """
        models = self.models
        models.recipe({name: 0.0})  # raises if no vector has this name
        rest = [(path, other) for path, other in models.named_folders if other != name]
        return self.open(models.base.path, rest, models.data_folder, models.start.vocabulary)

    # recipes and standing

    @property
    def standing(self) -> Standing:
        """The standing that was settled last; a new page starts there."""
        return self._standing

    def recipe(
        self, omegas: Mapping[str, float] | Sequence[float], choice: Choice = PLAIN
    ) -> Recipe:
        """Returns the recipe with these ω under a method; see Models.recipe."""
        return self.models.recipe(omegas, choice)

    def settle(self, standing: Standing) -> Recipe:
        """Makes a standing the current one, also for pages that open later, and returns its recipe.

        Raises:
            SessionError, MergingError: it cannot be composed; the old standing stays current.
        """
        models = self.models
        recipe = models.recipe(standing.omegas, standing.choice)
        models.composer.check(recipe)
        self._standing = standing
        self.shown.add(recipe)
        return recipe

    def recall(self, digest: str) -> Recipe:
        """Returns the recipe that a page shows, by its digest; raises as ShownRecipes.get does.

        Args:
            digest: of the recipe; "" for the standing that was settled last.
        """
        if digest:
            return self.shown.get(digest)
        standing = self._standing
        return self.recipe(standing.omegas, standing.choice)

    # measuring

    @property
    def module_wanted(self) -> bool:
        """Whether somebody waits for the live module."""
        return self._model_lock.wanted

    def compose(self, recipe: Recipe, stale: Stale = lambda: False) -> float:
        """Composes a recipe into the live module and returns the seconds that took."""
        begin = time.monotonic()
        with self._model_lock:
            self.models.composer.compose(recipe, stale)
        return time.monotonic() - begin

    @contextmanager
    def composed(
        self, models: Models, recipe: Recipe, stale: Stale = lambda: False
    ) -> Iterator[Any]:
        """Gives the live module, composed to exactly this recipe while the block lasts.

        Raises:
            Stopped: `stale` became true.
        """
        with self._model_lock:
            yield models.composer.compose(recipe, stale)

    def preview(
        self, settled: Recipe, recipe: Recipe, stale: Stale = lambda: False
    ) -> dict[str, LossOnAxis] | None:
        """Returns the quick losses while adapter sliders move; see Losses.preview."""
        return self.measuring.preview(self.models, settled, recipe, stale)

    def losses(
        self, recipe: Recipe, size: str = FULL, stale: Stale = lambda: False
    ) -> dict[str, Entry]:
        """Returns the losses of a composition on every dataset; see Losses.on_all."""
        return self.measuring.on_all(self.models, recipe, size, stale)

    def baselines(self, size: str = FULL) -> dict[str, tuple[Entry, Entry | None]]:
        """Returns, by dataset, the losses of the base and of its own expert; see Losses.ends."""
        return self.measuring.ends(self.models, size)

    def interference(self, stale: Stale = lambda: False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the loss of each dataset under each vector alone; see measure_interference."""
        return measure_interference(self.measuring, self.models, stale)

    def known_interference(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the interference table if every cell was measured before, else None."""
        return known_interference(self.book, self.models)

    def close(self) -> None:
        """Ends what uses the session, stops the jobs, then closes the files that they write to."""
        for end in self.at_close:
            end()
        self.jobs.close()
        self.book.close()
        self.spending.flush()
        self.ledger.close()
