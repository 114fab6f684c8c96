"""Opening models: everything is checked and loaded before anything is shown, so that it works or leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.commands import display_path
from workbench.errors import SessionError
from workbench.session.composer import Composer
from workbench.session.keys import fingerprint
from workbench.session.memory import load_into_memory
from workbench.session.models import DataSet, Models
from workbench.session.sizes import FULL, QUICK, QUICK_EXAMPLES

if TYPE_CHECKING:
    from corpus.jsonl import Example
    from merging.inputs.vector import Vector


def open_models(
    base: Path,
    checkpoints: Iterable[tuple[Path, str | None]],
    data: Path | None = None,
    *,
    device: str = "cpu",
    vocabulary: str = "refuse",
) -> Models:
    """Open a base with its fine-tuned checkpoints and its data.

    Args:
        base: the folder of Θ.
        checkpoints: folders, and what to call them; the folder's name if None.
        data: a folder of datasets to measure losses on.
        device: where the model in memory lives.
        vocabulary: for checkpoints of another one, 'refuse' or 'base'; see merging.vocabulary. The model in memory has
            the base's rows, so that 'union' is for exports by a recipe only.

    Raises:
        MergingError, EvaluationError, CorpusError, SessionError: nothing was opened; the message says what to do.
    """
    from evaluation.model import load
    from merging import Recipe, preflight, with_identities
    from merging.inputs.vector import DistributionVector
    from merging.recipe.fields import unique

    paths: list[Path] = []
    names: list[str] = []
    for path, name in checkpoints:
        paths.append(path)
        names.append(unique(name or path.name, names))
    if not paths:
        raise SessionError(
            f"{base} is open without a checkpoint; choose at least one that was fine-tuned from it."
        )
    if vocabulary == "union":
        raise SessionError(
            "a union of vocabularies is not composed in memory; write its recipe and run dem merge."
        )
    opened, vectors, problems = preflight(base, paths, names, vocabulary)
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise SessionError("\n".join(f"{problem.subject}: {problem.text}" for problem in errors))
    weights, memory = load_into_memory(opened, vectors)
    loaded = load(base, checkpoint=opened, device=device)
    folders = {name: display_path(vector.path or "") for name, vector in vectors.items()}
    start = with_identities(
        Recipe.compose(display_path(base), folders, vocabulary=vocabulary), opened, vectors
    )
    known = dict(vectors)
    name = unique("base", names)
    known[name] = DistributionVector(
        name, weights, weights
    )  # for methods that take the base as one more model
    return Models(
        base=opened,
        vectors=vectors,
        start=start,
        best=_best(base, vectors),
        loaded=loaded,
        composer=Composer(base, loaded, weights, known),
        data=_datasets(data, loaded.tokenizer) if data else {},
        data_folder=data,
        memory=memory,
        notes=(*(f"{p.subject}: {p.text}" for p in problems), *loaded.notes),
    )


def _best(base: Path, vectors: Mapping[str, Vector]) -> Mapping[str, float] | None:
    """The ω of a recipe.yml beside the base, if it speaks of exactly these vectors."""
    from merging.errors import MergingError
    from merging.recipe import read_recipe

    file = base.parent / "recipe.yml"
    if not file.is_file():
        return None
    try:
        omegas = read_recipe(file).omegas
    except MergingError:
        return None
    usable = all(isinstance(omega, int | float) for omega in omegas.values())
    return (
        {name: float(omegas[name]) for name in vectors}
        if usable and set(omegas) == set(vectors)
        else None
    )


def _datasets(folder: Path, tokenizer: Any) -> dict[str, DataSet]:
    from corpus.jsonl import read_datasets

    if tokenizer is None:
        raise SessionError(
            "the base has no tokenizer, so its loss cannot be measured. Copy one into its folder."
        )
    return {
        name: _dataset(name, examples, tokenizer)
        for name, examples in read_datasets(folder).items()
    }


def _dataset(name: str, examples: Sequence[Example], tokenizer: Any) -> DataSet:
    from evaluation.loss import prepare

    sizes = {QUICK: min(QUICK_EXAMPLES, len(examples)), FULL: len(examples)}
    prepared = {
        size: prepare({name: examples}, tokenizer, limit=limit) for size, limit in sizes.items()
    }
    keys = {
        size: fingerprint([[(e.prompt, e.completion) for e in examples[:limit]], "v1"])
        for size, limit in sizes.items()
    }
    return DataSet(name, prepared, keys, tuple(example.prompt for example in examples[:5]))


def by_recipe(folders: Sequence[Path], recipe: Path) -> list[Path]:
    """Folders in the order in which a recipe file names them, the others after them by name; a bad file names none."""
    from merging.errors import MergingError
    from merging.recipe import read_recipe

    try:
        order = list(read_recipe(recipe).omegas) if recipe.is_file() else []
    except MergingError:
        order = []
    places = {name: place for place, name in enumerate(order)}
    return sorted(folders, key=lambda path: (places.get(path.name, len(order)), path.name))
