"""Statistics of a model on data, for the merge methods that weigh models by them; merging/inputs/statistics.py reads the file.

fisher (Matena and Raffel, arXiv 2111.09832): per entry of each tensor the mean over examples e of the squared gradient

    F = 1/n Σ_e (∂/∂θ Σ_t log p(y_t | x_e, y_<t))²        t: the supervised tokens of e

with the data's tokens (the empirical Fisher information), or with tokens drawn from the model, each after the data's own
(the expected one, by one sample). Worked example: gradients 1 and 3 of two examples give (1 + 9) / 2 = 5.

gram (Jin et al., arXiv 2212.09849): per linear layer the mean of xᵀx over all positions, prompts included, as the
authors' code takes it: the number of tokens is no weight, ω is. Worked example: inputs (1, 0) and (1, 2) give
[[1, 1], [1, 2]].

Padding would be an input like any other to a layer that sees tokens out of order (experts), so there is none: fisher
takes one example at a time, gram as many as are equally long.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from evaluation.errors import DataError, LoadError, Stopped
from evaluation.fisher import fisher
from evaluation.gram import embeddings, gram
from evaluation.loss import Prepared, vocabulary_size
from evaluation.model import Loaded
from evaluation.unpadded import EqualLengthBatch, equal_length_batches
from merging.inputs.statistics import StatisticsFacts, check_target, write

Kind = Literal["fisher", "gram"]


Progress = Callable[[int, int], None]
"""Examples done, and examples in all."""


class Collected(NamedTuple):
    """What was written."""

    facts: StatisticsFacts
    names: tuple[str, ...]
    """Tensors that have statistics."""
    averaged: tuple[str, ...]
    """Matrices that have none, so that the method averages them, embeddings apart: experts that are no layers of their own."""


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
    """Collect statistics of a model and write them under the names of its files.

    In memory are the model, one set of statistics in float32 and, for fisher, one example's activations and one gradient.

    Args:
        loaded: the model; in float32, or the squares of small gradients are lost.
        prepared: its own data: what `evaluation.loss.prepare` made with its tokenizer.
        kind: see the head of this file.
        out: the file to make; it must not exist.
        model: the digest of its folder, which a merge compares; see Checkpoint.digest.
        sampled: for fisher, draw the tokens from the model.
        seed: of that draw; an example's tokens depend on it, the dataset's name and the example's number only.
        progress: called after each step.
        should_stop: asked before each step.

    Raises:
        ExportError: when the file exists or cannot be written.
        DataError: for a token that the model does not know, statistics that are not finite, `sampled` with gram.
        LoadError: when no tensor of the files can be found in the module.
        Stopped: `should_stop` said so; nothing was written.
    """
    if kind == "gram" and sampled:
        raise DataError(
            "sampled is of kind fisher only: gram looks at the inputs of layers, which the data give."
        )
    if prepared.largest >= (known := vocabulary_size(loaded.module)):
        raise DataError(
            f"token {prepared.largest} occurs in the data, the model knows {known} tokens. Use the tokenizer of this model."
        )
    check_target(out)
    steps = list(equal_length_batches(prepared, alone=kind == "fisher"))
    total = sum(len(part.examples) for part in steps)

    def watched() -> Iterator[EqualLengthBatch]:
        done = 0
        for part in steps:
            if should_stop():
                raise Stopped(f"stopped after {done} of {total} examples; nothing was written")
            yield part
            progress(done := done + len(part.examples), total)

    inputs_first: list[str] = []
    if kind == "fisher":
        tokens = prepared.tokens
        tensors = fisher(loaded.module, loaded.views, watched(), total, seed if sampled else None)
    else:
        tokens = sum(part.ids.numel() for part in steps)
        tensors, inputs_first = gram(loaded.module, loaded.views, watched(), tokens)
    if not tensors:
        raise LoadError(
            "no tensor of the files is a parameter of the module as it stands there; nothing can be collected."
        )
    squares = {name: float(value.double().square().sum()) for name, value in tensors.items()}
    if strange := [name for name, value in squares.items() if not math.isfinite(value)]:
        raise DataError(
            f"the statistics of {strange[0]!r} are not finite. Look at the model's loss on this data."
        )
    names = [dataset.name for dataset in prepared.datasets]
    norm = math.sqrt(sum(squares.values()))
    facts = StatisticsFacts(
        kind, model, names, total, tokens, sampled, seed, norm, inputs_first, _versions()
    )
    write(out, facts, tensors)
    return Collected(
        facts, tuple(tensors), tuple(name for name in _matrices(loaded) if name not in tensors)
    )


def _matrices(loaded: Loaded) -> Iterator[str]:
    """The tensors of the files that fill matrices of the module, embeddings apart."""
    looked_up = embeddings(loaded.module)
    parameters = dict(loaded.module.named_parameters(remove_duplicate=False))
    for name, view in loaded.views.items():
        parameter = parameters.get(view.parameter)
        if parameter is not None and parameter.dim() > 1 and id(parameter) not in looked_up:
            yield name


def _versions() -> dict[str, str]:
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
    """Load a model and its data, collect, write; what a reader should know is said on the way.

    Args:
        folder: of a full model; an adapter is merged into one first.
        out: the file to make.
        data: a folder with <dataset>/<split>.jsonl.
        kind: "fisher" or "gram".
        datasets: which of the datasets; all if none is named.
        split: which split to read.
        limit: the first so many examples of each dataset.
        sampled: see collect, as `seed`.
        seed: of the draw.
        progress: examples done, and examples in all.
        say: gets each warning as a line.

    Raises:
        CheckpointError, LoadError, CorpusError, DataError, ExportError: for what cannot be read, scored or written.
    """
    from corpus.jsonl import read_datasets
    from evaluation.loss import prepare
    from evaluation.model import load
    from merging import Checkpoint
    from plumbing.suggest import listed, nearest

    if kind not in ("fisher", "gram"):
        raise DataError(f"the kind is {kind!r}; {nearest(kind, ('fisher', 'gram'))}")
    check_target(out)
    found = read_datasets(data, split)
    for name in datasets:
        if name not in found:
            raise DataError(
                f"{data} has no dataset {name!r} with {split}.jsonl; {nearest(name, list(found))}"
            )
    checkpoint = Checkpoint(folder)
    loaded = load(folder, checkpoint=checkpoint, dtype=torch.float32)
    if loaded.tokenizer is None:
        raise LoadError(
            f"{folder} has no tokenizer. Copy the base's tokenizer files into its folder."
        )
    for note in loaded.notes:
        say(f"warning: {note}")
    prepared = prepare(
        {name: found[name] for name in datasets or found}, loaded.tokenizer, limit=limit
    )
    for name, count in prepared.dropped.items():
        if count:
            say(
                f"warning: {name}: {count} examples are longer than the model's context and were left out"
            )
    model = checkpoint.digest
    made = collect(
        loaded, prepared, kind, out, model=model, sampled=sampled, seed=seed, progress=progress
    )
    if made.averaged:
        say(
            f"warning: matrices without statistics, which a merge averages: {listed(list(made.averaged))}"
        )
    return made
