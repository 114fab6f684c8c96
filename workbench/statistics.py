"""Statistics of a model on its own data, from a folder to the file that a recipe of `fisher` or `regmean` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluation.statistics import Collected, Kind, Progress


def collect(
    folder: Path,
    out: Path,
    data: Path,
    kind: Kind,
    *,
    datasets: Sequence[str] = (),
    split: str = "train",
    limit: int | None = None,
    sampled: bool = False,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Collected:
    """Load a model and its data, collect, write; what a reader should know is said on the way.

    Args:
        folder: of a full model; an adapter is merged into one first.
        out: the file to make.
        data: a folder with <dataset>/<split>.jsonl.
        kind: "fisher" or "gram".
        datasets: which of the datasets; all if none is named.
        split: which split to read.
        limit: the first so many examples of each dataset.
        sampled: see evaluation.statistics.collect, as `seed`.
        seed: of the draw.
        progress: examples done, and examples in all.
        say: gets each warning as a line.

    Raises:
        CheckpointError, LoadError, CorpusError, DataError, ExportError: for what cannot be read, scored or written.
    """
    import torch

    from corpus.sources import read_datasets
    from evaluation import statistics
    from evaluation.errors import DataError, LoadError
    from evaluation.loss import prepare
    from evaluation.model import load
    from merging import Checkpoint
    from merging.errors import listed, nearest
    from merging.statistics_file import check_target

    if kind not in ("fisher", "gram"):
        raise DataError(f"the kind is {kind!r}; {nearest(kind, ('fisher', 'gram'))}")
    check_target(out)
    found = read_datasets(data, split)
    for name in datasets:
        if name not in found:
            raise DataError(f"{data} has no dataset {name!r} with {split}.jsonl; {nearest(name, list(found))}")
    checkpoint = Checkpoint(folder)
    loaded = load(folder, checkpoint=checkpoint, dtype=torch.float32)
    if loaded.tokenizer is None:
        raise LoadError(f"{folder} has no tokenizer. Copy the base's tokenizer files into its folder.")
    for note in loaded.notes:
        say(f"warning: {note}")
    prepared = prepare({name: found[name] for name in datasets or found}, loaded.tokenizer, limit=limit)
    for name, count in prepared.dropped.items():
        if count:
            say(f"warning: {name}: {count} examples are longer than the model's context and were left out")
    model = checkpoint.digest
    made = statistics.collect(loaded, prepared, kind, out, model=model, sampled=sampled, seed=seed, progress=progress)
    if made.averaged:
        say(f"warning: matrices without statistics, which a merge averages: {listed(list(made.averaged))}")
    return made
