"""Session: the verbs of every journey, for the page, the command line and tests. It knows no page.

One module is live in memory. Whoever needs it names the recipe, and gets it under a lock as exactly that composition;
so two pages may pull at it and no number is ever shown under the wrong ω. Work that a newer wish has overtaken is
dropped at its next step.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import psutil

from evaluation.records.ledger import Ledger
from plumbing.atomic import write_whole
from workbench.errors import SessionError
from workbench.session import answer
from workbench.session.folders import Folders, ModelFolder
from workbench.session.job_table import Jobs
from workbench.session.loss_cache import Entry, LossCache
from workbench.session.losses import Losses, LossOnAxis, Reading
from workbench.session.models import OMEGA_RANGE, Models
from workbench.session.opening import by_recipe, open_models
from workbench.session.sizes import FULL, Stale
from workbench.session.spending import LossLedger
from workbench.session.standing import PLAIN, Choice, Standing
from workbench.session.tickets import Tickets
from workbench.session.workdir import Workdir

if TYPE_CHECKING:
    from merging.analysis.geometry import Geometry
    from merging.recipe import Recipe

__all__ = [
    "OMEGA_RANGE",
    "Choice",
    "LossOnAxis",
    "Reading",
    "Session",
    "Stale",
    "Standing",
]

log = logging.getLogger(__name__)
T = TypeVar("T")


class Session:
    """One workdir, its allowed folders, and what is open.

    Args:
        roots: folders that may be read; the demo's folder is one if it is given.
        workdir: where jobs, runs, recipes and exports are kept.
        demo: a folder with base/, one folder per checkpoint, data/ and recipe.yml.
        device: where the live module stands, as torch names it.
    """

    def __init__(
        self, roots: Sequence[Path], workdir: Path, demo: Path | None = None, device: str = "cpu"
    ):
        self.workdir = Workdir(Path(workdir))
        self.workdir.root.mkdir(parents=True, exist_ok=True)
        self.demo = demo
        self.folders = Folders([*([demo] if demo else []), *roots, self.workdir.trained])
        self.jobs = Jobs(self.workdir.jobs)
        self.device = device
        self.opened = threading.Event()
        self.problem = ""
        self._book = LossCache(self.workdir.losses)
        self.ledger = Ledger(self.workdir.ledger, log.warning)
        self.spending = LossLedger(self.ledger, device)
        self._models: Models | None = None
        self._standing = Standing(())
        self._model_lock = threading.RLock()
        self._losses = Losses(self._book, self._model_lock, self.spending)
        self._open_lock = threading.Lock()
        self.tickets = Tickets()
        self._geometry: tuple[Models, Geometry] | None = None
        self._geometry_lock = threading.Lock()

    # what is open

    @property
    def models(self) -> Models:
        """What is open; SessionError while nothing is."""
        if self._models is None:
            raise SessionError(
                self.problem
                or "no models are open yet. Choose a base and checkpoints under Models."
            )
        return self._models

    @property
    def book(self) -> LossCache:
        """The losses that were measured in this workdir."""
        return self._book

    @property
    def ready(self) -> bool:
        """Whether models are open."""
        return self._models is not None

    def found_models(self) -> list[ModelFolder]:
        """Folders under the allowed roots that can be opened."""
        return self.folders.models()

    def found_data(self) -> list[ModelFolder]:
        """Folders under the allowed roots that hold validation data."""
        return self.folders.data()

    def open_demo(self) -> None:
        """Open the demo; a failure is kept in `problem`, for this runs beside the start of the page."""
        try:
            if self.demo is None:
                return
            base = (self.demo / "base").resolve()
            paths = [
                found.path for found in self.folders.models() if found.path.parent == base.parent
            ]
            rest = by_recipe([path for path in paths if path != base], self.demo / "recipe.yml")
            self.open(base, [(path, None) for path in rest], self.demo / "data")
        except Exception as error:
            log.exception("the demo could not be opened")
            self.problem = f"the demo could not be opened: {error}"
        finally:
            self.opened.set()

    def open(
        self,
        base: str | Path,
        checkpoints: Sequence[tuple[str | Path, str | None]],
        data: str | Path | None = None,
        vocabulary: str = "refuse",
    ) -> Models:
        """Open a base, its checkpoints and data; if anything fails, what was open stays open. See open_models.

        Raises:
            SessionError, MergingError, EvaluationError, CorpusError.
        """
        with self._open_lock:
            allowed = [(self.folders.resolve(path), name) for path, name in checkpoints]
            folder = self.folders.resolve(data) if data else None
            folders = self.folders.resolve(base), allowed, folder
            models = open_models(*folders, device=self.device, vocabulary=vocabulary)
            self.use(models)
        return models

    def use(self, models: Models) -> None:
        """Make models what is open, and stand at their best known ω."""
        with self._model_lock:
            self._models = models
            self._standing = Standing(
                tuple((models.best or {}).get(name, 0.0) for name in models.names)
            )
            self.problem = ""
            self.opened.set()

    def add_checkpoint(self, path: str | Path, name: str | None = None) -> Models:
        """Open one more checkpoint on the same base."""
        models = self.models
        have = [(vector.path or "", key) for key, vector in models.vectors.items()]
        return self.open(
            models.base.path, [*have, (path, name)], models.data_folder, models.start.vocabulary
        )

    def remove(self, name: str) -> Models:
        """Close one vector."""
        models = self.models
        models.recipe({name: 0.0})  # raises for a name that is not there
        rest = [(vector.path or "", key) for key, vector in models.vectors.items() if key != name]
        return self.open(models.base.path, rest, models.data_folder, models.start.vocabulary)

    # recipes

    @property
    def standing(self) -> Standing:
        """What was settled last: where a new page starts."""
        return self._standing

    def recipe(
        self, omegas: Mapping[str, float] | Sequence[float], choice: Choice = PLAIN
    ) -> Recipe:
        """The composition with these ω under a method; see Models.recipe."""
        return self.models.recipe(omegas, choice)

    def settle(self, standing: Standing) -> Recipe:
        """The composition that a page now stands at; remembered for pages that open later.

        Raises:
            SessionError, MergingError: when it cannot be composed; what was settled before stays.
        """
        models = self.models
        made = models.recipe(standing.omegas, standing.choice)
        models.composer.check(made)
        self._standing = standing
        return made

    def preset(self, name: str) -> tuple[float, ...]:
        """The ω of `base`, `uniform`, `best` or of one vector alone (`only:NAME`)."""
        models = self.models
        if name == "base":
            return (0.0,) * len(models.names)
        if name == "uniform":
            return (round(1 / len(models.names), 2),) * len(models.names)
        if name == "best":
            if models.best is None:
                raise SessionError(
                    "no best ω are known for these models yet; they come from a recipe.yml or a search."
                )
            return tuple(models.best[key] for key in models.names)
        alone = name.removeprefix("only:")
        return tuple(models.recipe({alone: 1.0}).omegas[key] for key in models.names)

    def save_recipe(self, recipe: Recipe) -> Path:
        """The recipe as a file of the workdir, so that a command line can name it."""
        from merging.recipe import recipe_yaml

        file = self.workdir.recipes / f"{recipe.digest}.yml"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            write_whole(file, recipe_yaml(recipe))
        return file

    # measuring

    def compose(self, recipe: Recipe, stale: Stale = lambda: False) -> float:
        """Make the live module this composition; the seconds that took."""
        begin = time.monotonic()
        with self._model_lock:
            self.models.composer.compose(recipe, stale)
        return time.monotonic() - begin

    def measure(
        self, recipe: Recipe, *, stale: Stale = lambda: False, full: bool = True
    ) -> Iterator[Reading]:
        """Compose, then the losses as they become known; see Losses.measure."""
        return self._losses.measure(self.models, recipe, stale=stale, full=full)

    def preview(
        self, settled: Recipe, recipe: Recipe, stale: Stale = lambda: False
    ) -> Reading | None:
        """The quick losses of a move of adapters while it lasts, without composing it; see Losses.preview."""
        return self._losses.preview(self.models, settled, recipe, stale)

    def losses(
        self, recipe: Recipe, size: str = FULL, stale: Stale = lambda: False
    ) -> dict[str, Entry]:
        """The losses of a composition on every dataset; see Losses.on_all."""
        return self._losses.on_all(self.models, recipe, size, stale)

    def baselines(self, size: str = FULL) -> dict[str, tuple[Entry, Entry | None]]:
        """Per dataset the base's loss and its own expert's; measured once, then read from the workdir."""
        return {name: self._losses.ends(self.models, name, size) for name in self.models.data}

    def interference(self, stale: Stale = lambda: False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Losses of each dataset under each vector alone, and their errors; see Losses.interference."""
        return self._losses.interference(self.models, stale)

    def known_interference(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The interference table if every cell was measured before, else None."""
        return self._losses.known_interference(self.models)

    def generate(
        self, recipe: Recipe, prompt: str, *, stale: Stale = lambda: False, max_new_tokens: int = 64
    ) -> Iterator[str]:
        """The composition's continuation of a prompt, piece by piece."""
        tokenizer = self.models.loaded.tokenizer
        if tokenizer is None:
            raise SessionError(
                "the base has no tokenizer, so it cannot be asked. Copy one into its folder."
            )
        yield from answer.stream_answer(
            lambda work: self._with_module(recipe, work), tokenizer, prompt, stale, max_new_tokens
        )

    def geometry(self, progress: Callable[[int, int], None] = lambda done, total: None) -> Geometry:
        """Cosines and distances of what is open; computed once."""
        from merging.analysis.geometry import measure

        with self._geometry_lock:
            models = self.models
            if self._geometry is None or self._geometry[0] is not models:
                self._geometry = (models, measure(*models.reopened(), progress))
            return self._geometry[1]

    @property
    def has_geometry(self) -> bool:
        """Whether the geometry of what is open was measured."""
        return self._geometry is not None and self._geometry[0] is self._models

    def close(self) -> None:
        """Stop the jobs and close the files."""
        self.jobs.close()
        self._book.close()
        self.spending.flush()
        self.ledger.close()

    # the one live module

    def _with_module(self, recipe: Recipe, work: Callable[[Any], T]) -> T:
        """Run work on the live module as exactly this composition."""
        with self._model_lock:
            return work(self.models.composer.compose(recipe))

    def with_frozen(self, models: Models, recipe: Recipe, work: Callable[[Any], T]) -> T:
        """Run work on a copy of the module if memory allows, else on the live one under the lock."""
        size = sum(p.numel() * p.element_size() for p in models.loaded.module.parameters())
        if size < psutil.virtual_memory().available / 2:
            with self._model_lock:
                module = copy.deepcopy(models.composer.compose(recipe))
            return work(module)
        with self._model_lock:
            return work(models.composer.compose(recipe))
