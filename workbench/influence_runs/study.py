"""A study: the folder in which LESS asks which examples of a pool improve a model.

    STUDY/study.json            the base, the pool, and the settings of the warm-up
          warmup.yml            the plan of the warm-up, which any `dem train` can carry out
          warmup.selection.json the records of the pool that it trains on
          trained/warmup/       its adapter, and in epochs/ a checkpoint of each pass
          store-sgd/            projected gradients of the pool at each checkpoint, by kind

Every step continues where it was interrupted, and refuses a folder that belongs to another study.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from corpus import Record, Source, dataset_files, load
from corpus.records import digest
from plumbing.atomic import write_whole
from training.adapter import Lora
from workbench.errors import SessionError

FILE = "study.json"
STEP = "warmup"
"""Name of the step of the warm-up."""


@dataclass(frozen=True)
class WarmUp:
    """The settings of a warm-up; share and passes are LESS's (arXiv 2402.04333, section 4.1).

    Attributes:
        share: share of the pool that is trained on, drawn at random.
        epochs: passes over it; a checkpoint is kept after each.
        rate: highest learning rate. LESS has 2e-5 for a rank of 128 and 7 billion parameters.
        rank: rank of the adapter; its alpha is twice that.
        batch: examples of a step.
        seed: decides the draw and the training.
    """

    share: float = 0.05
    epochs: int = 4
    rate: float = 2e-4
    rank: int = 16
    batch: int = 32
    seed: int = 0

    @property
    def lora(self) -> Lora:
        """The adapter that is trained."""
        return Lora(self.rank, alpha=2 * self.rank)


@dataclass(frozen=True)
class Study:
    """What a study asks about: a base, and a pool of data for it.

    Attributes:
        folder: where its files are.
        base: folder of the base.
        sources: name -> the source; the pool is all of their records, one source after the other.
        digests: name -> SHA-256 of its records, so that changed data are told.
        warm_up: the settings of the warm-up.
    """

    folder: Path
    base: str
    sources: Mapping[str, Source]
    digests: Mapping[str, str]
    warm_up: WarmUp

    @property
    def trained(self) -> Path:
        """The folder of the warm-up, as `dem train` writes it."""
        return self.folder / "trained" / STEP

    def store(self, kind: str) -> Path:
        """The folder of the projected gradients of one kind."""
        return self.folder / f"store-{kind}"

    def pool(self) -> dict[str, list[Record]]:
        """Loads the pool: name of a source -> its records.

        Raises:
            CorpusError: a source cannot be read.
            SessionError: a source holds other records than when the study began.
        """
        loaded = {name: load(source) for name, source in self.sources.items()}
        for name, records in loaded.items():
            if digest(records) != self.digests[name]:
                raise SessionError(
                    f"{self.folder / FILE}: the source {name} ({self.sources[name].path}) holds "
                    "other records than when the study began, so its gradients are of other "
                    "examples. Restore the file, or begin a new study."
                )
        return loaded


def begin_study(
    folder: Path, base: str, data: Path | str, split: str, warm_up: WarmUp
) -> tuple[Study, dict[str, list[Record]]]:
    """Makes a study, or opens the one that is there if it asks the same.

    Args:
        folder: its folder; may exist if it holds the same study.
        base: folder of the base.
        data: folder with DATASET/SPLIT.jsonl; each dataset becomes a source of the pool.
        split: the name of the split.
        warm_up: the settings of the warm-up.

    Returns:
        The study and its pool.

    Raises:
        CorpusError: the data cannot be read.
        SessionError: there is no such data, or the folder holds something else.
    """
    files = dataset_files(data, split)
    if not files:
        raise SessionError(
            f"{data}: no file <dataset>/{split}.jsonl was found. Give a folder that holds one "
            f"folder per source of the pool, each with {split}.jsonl."
        )
    # Absolute, so that the study can be opened from any folder.
    sources = {name: Source(name, str(file.resolve())) for name, file in files.items()}
    pool = {name: load(source) for name, source in sources.items()}
    digests = {name: digest(records) for name, records in pool.items()}
    study = Study(folder, base, sources, digests, warm_up)
    if (folder / FILE).exists():
        _refuse_other(open_study(folder), study)
        return study, pool
    if folder.exists() and any(folder.iterdir()):
        raise SessionError(
            f"{folder} holds files that are no study. Give a new folder, or that of a study."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, json.dumps(_facts(study), indent=1, ensure_ascii=False) + "\n")
    return study, pool


def open_study(folder: Path) -> Study:
    """Opens a study that `dem influence warmup` began.

    Raises:
        SessionError: the folder holds no study.
    """
    try:
        facts = json.loads((folder / FILE).read_text("utf-8"))
        return Study(
            folder,
            facts["base"],
            {name: Source(name, path) for name, path in facts["sources"].items()},
            facts["digests"],
            WarmUp(**facts["warm_up"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SessionError(
            f"{folder} is no study ({error}). Begin one by: dem influence warmup BASE {folder} "
            "--data DIR"
        ) from None


def _facts(study: Study) -> dict[str, Any]:
    """Returns the content of study.json."""
    return {
        "base": study.base,
        "sources": {name: source.path for name, source in study.sources.items()},
        "digests": dict(study.digests),
        "warm_up": asdict(study.warm_up),
    }


def _refuse_other(there: Study, wanted: Study) -> None:
    """Refuses to continue a study with another base, pool or warm-up, and names the difference.

    Raises:
        SessionError: something differs.
    """
    pairs: dict[str, tuple[Any, Any]] = {"base": (there.base, wanted.base)}
    pairs["sources"] = (", ".join(there.sources), ", ".join(wanted.sources))
    for name in there.digests.keys() & wanted.digests.keys():
        pairs[f"the records of {name}"] = (there.digests[name], wanted.digests[name])
    for field in fields(WarmUp):
        pairs[field.name] = tuple(getattr(one.warm_up, field.name) for one in (there, wanted))
    for name, (was, given) in pairs.items():
        if was != given:
            raise SessionError(
                f"{there.folder} holds a study with another {name}: {was}, and {given} was given. "
                "Give a new folder, or the same settings."
            )
