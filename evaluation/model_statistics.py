"""Collects statistics of a model on data, for the merge methods that weigh models by them.

merging/inputs/statistics.py reads the file that is written here.

fisher (Matena and Raffel, arXiv 2111.09832): for each entry of each tensor, the mean over examples
e of the squared gradient

    F = 1/n Σ_e (∂/∂θ Σ_t log p(y_t | x_e, y_<t))²        t: the supervised tokens of e

The tokens y are the data's own (the empirical Fisher information), or each is drawn from the model
after the data's own tokens before it (the expected information, estimated by one sample).
Worked example: gradients 1 and 3 of two examples give (1 + 9) / 2 = 5.

gram (Jin et al., arXiv 2212.09849): for each linear layer, the mean of xᵀx over all positions,
prompts included, as in the authors' code. It is a mean, so a model with more tokens has no more
weight in a merge; only ω weighs. Worked example: inputs (1, 0) and (1, 2) give [[1, 1], [1, 2]].

There is no padding: to a layer that sees tokens out of order (experts) it would be an input like
any other. So fisher takes one example at a time, and gram takes examples of the same length.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from evaluation.errors import DataError, LoadError, Stopped
from evaluation.fisher import fisher
from evaluation.gram import embeddings, gram
from evaluation.model import Loaded
from evaluation.prepared import Prepared, check_vocabulary
from evaluation.unpadded import EqualLengthBatch, equal_length_batches
from merging.inputs.statistics import StatisticsFacts, check_target, write

Kind = Literal["fisher", "gram"]


Progress = Callable[[int, int], None]
"""Called with the examples done and the examples in all."""


class Collected(NamedTuple):
    """The statistics that were written to a file."""

    facts: StatisticsFacts
    names: tuple[str, ...]
    """Names of the tensors that have statistics."""
    averaged: tuple[str, ...]
    """Names of the matrices without statistics, which the merge method averages.

    They are experts that are not layers of their own. Embeddings are not listed.
    """


def collect(
    loaded: Loaded,
    prepared: Prepared,
    kind: Kind,
    out: str | Path,
    *,
    model: str,
    sampled: bool = False,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Collected:
    """Collects statistics of a model and writes them under the names of the tensors in its files.

    In memory are the model, one set of statistics in float32 and, for fisher, the activations and
    the gradient of one example.

    Args:
        loaded: the model. In a type smaller than float32 the squares of small gradients are lost.
        prepared: the model's own data, as `evaluation.prepared.prepare` made it with its tokenizer.
        kind: see the head of this file.
        out: the file to write; it must not exist.
        model: the digest of the model folder (Checkpoint.digest), which a merge compares.
        sampled: for fisher, draw the tokens from the model.
        seed: of that draw. The tokens of an example depend only on it, on the dataset's name and
            on the example's number.
        progress: called after each step.
        should_stop: asked before each step.

    Raises:
        ExportError: the file exists or cannot be written.
        DataError: a token is outside the model's vocabulary, statistics are not finite, or
            `sampled` is True with gram.
        LoadError: no tensor of the files is found in the module.
        Stopped: `should_stop` returned True; nothing was written.
    """
    if kind == "gram" and sampled:
        raise DataError(
            "sampled only applies to kind fisher: "
            "gram uses the inputs of layers, which come from the data."
        )
    check_vocabulary(loaded.module, prepared)
    # Before the work, which takes long, and again when the file is written.
    check_target(out)
    # A list, because the mean needs the number of all examples.
    steps = list(equal_length_batches(prepared, alone=kind == "fisher"))
    total = sum(len(batch.examples) for batch in steps)

    def reported() -> Iterator[EqualLengthBatch]:
        done = 0
        for batch in steps:
            if should_stop():
                raise Stopped(f"stopped after {done} of {total} examples; nothing was written")
            yield batch
            progress(done := done + len(batch.examples), total)

    inputs_first: list[str] = []
    if kind == "fisher":
        tokens = prepared.tokens
        tensors = fisher(loaded.module, loaded.views, reported(), total, seed if sampled else None)
    else:
        tokens = sum(batch.ids.numel() for batch in steps)
        tensors, inputs_first = gram(loaded.module, loaded.views, reported(), tokens)
    if not tensors:
        raise LoadError(
            "no tensor of the files is a parameter of the module in the form that it has in its "
            "file; nothing can be collected."
        )
    # One sum serves twice: it gives the norm, and in float64 it is finite exactly if all float32
    # values are.
    squares = {name: float(value.double().square().sum()) for name, value in tensors.items()}
    if not_finite := [name for name, value in squares.items() if not math.isfinite(value)]:
        raise DataError(
            f"the statistics of {not_finite[0]!r} are not finite. "
            "Look at the model's loss on this data."
        )
    names = [dataset.name for dataset in prepared.datasets]
    # A parameter that the files store under several names counts once.
    parameters = dict(loaded.module.named_parameters(remove_duplicate=False))
    once = {
        (id(parameters[view.parameter]), view.index): squares[name]
        for name, view in loaded.views.items()
        if name in tensors
    }
    norm = math.sqrt(sum(once.values()))
    facts = StatisticsFacts(
        kind, model, names, total, tokens, sampled, seed, norm, inputs_first, _versions()
    )
    write(out, facts, tensors)
    return Collected(
        facts, tuple(tensors), tuple(name for name in _matrices(loaded) if name not in tensors)
    )


def _matrices(loaded: Loaded) -> Iterator[str]:
    """Yields the names of file tensors that fill matrices of the module, without embeddings."""
    looked_up = embeddings(loaded.module)
    parameters = dict(loaded.module.named_parameters(remove_duplicate=False))
    for name, view in loaded.views.items():
        parameter = parameters.get(view.parameter)
        if parameter is not None and parameter.dim() > 1 and id(parameter) not in looked_up:
            yield name


def _versions() -> dict[str, str]:
    """Returns the versions of the packages that the numbers depend on."""
    import transformers

    from merging.version import __version__

    return {
        "dem": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def collect_from_folder(
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
    """Loads a model and its data, collects statistics and writes them.

    Args:
        folder: of a full model; an adapter must be merged into a full model first.
        out: the file to write; it must not exist.
        data: a folder with <dataset>/<split>.jsonl.
        kind: "fisher" or "gram".
        datasets: names of the datasets to use; all if none is named.
        split: which split to read.
        limit: use only the first `limit` examples of each dataset; None uses all.
        sampled: as in `collect`.
        seed: as in `collect`.
        progress: see Progress.
        say: called with each warning, a line of text.

    Raises:
        CheckpointError: the folder is not a model.
        LoadError: the model cannot be loaded, or has no tokenizer.
        CorpusError: the data cannot be read.
        DataError: the kind or a dataset is unknown, or the data cannot be scored.
        ExportError: `out` exists or cannot be written.
    """
    from corpus.jsonl import read_datasets
    from evaluation.model import load
    from evaluation.prepared import prepare
    from merging import Checkpoint
    from plumbing.suggest import listed, nearest

    if kind not in ("fisher", "gram"):
        raise DataError(f"the kind is {kind!r}; {nearest(kind, ('fisher', 'gram'))}")
    # Before the model is loaded, which takes long.
    check_target(out)
    available = read_datasets(data, split)
    for name in datasets:
        if name not in available:
            raise DataError(
                f"{data} has no dataset {name!r} with {split}.jsonl; "
                f"{nearest(name, list(available))}"
            )
    checkpoint = Checkpoint(folder)
    # In float32, because the squares of small gradients are lost in a smaller dtype.
    loaded = load(folder, checkpoint=checkpoint, dtype=torch.float32)
    if loaded.tokenizer is None:
        raise LoadError(
            f"{folder} has no tokenizer. Copy the base model's tokenizer files into it."
        )
    for note in loaded.notes:
        say(f"warning: {note}")
    prepared = prepare(
        {name: available[name] for name in datasets or available}, loaded.tokenizer, limit=limit
    )
    for name, count in prepared.dropped.items():
        if count:
            say(
                f"warning: {name}: {count} examples are longer than the model's context "
                "and were left out"
            )
    model = checkpoint.digest
    collected = collect(
        loaded, prepared, kind, out, model=model, sampled=sampled, seed=seed, progress=progress
    )
    if collected.averaged:
        say(
            "warning: matrices without statistics, which a merge averages: "
            f"{listed(list(collected.averaged))}"
        )
    return collected
