"""Opens models all or nothing: everything is checked and loaded before anything is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus.reach import ANYWHERE, Reach
from workbench.commands import display_path
from workbench.errors import SessionError
from workbench.session.composer import Composer
from workbench.session.folders import Folders
from workbench.session.keys import fingerprint
from workbench.session.loss_on_axis import FULL, QUICK
from workbench.session.memory import load_into_memory
from workbench.session.models import DataSet, Models
from workbench.session.throughput import QUICK_SECONDS, quick_counts

if TYPE_CHECKING:
    from corpus.records import Record
    from evaluation.model import Loaded
    from evaluation.prepared import Prepared


def open_models(
    base: Path,
    checkpoints: Iterable[tuple[Path, str | None]],
    data: Path | None = None,
    *,
    device: str = "cpu",
    vocabulary: str = "refuse",
    reach: Reach = ANYWHERE,
) -> Models:
    """Opens a base with its fine-tuned checkpoints and its data.

    Args:
        base: the folder of the base Θ.
        checkpoints: pairs of a folder and a name; the folder's name is used if the name is None.
        data: a folder of datasets to measure losses on, or None.
        device: torch device of the live module.
        vocabulary: how to treat checkpoints with another vocabulary: 'refuse' or 'base'; see
            merging.inputs.vocabulary. 'union' is refused, because the live module has the rows of
            the base; it works in exports by a recipe.
        reach: the files that may be read; the folders themselves are checked by the caller.

    Raises:
        MergingError, EvaluationError, CorpusError, SessionError: nothing was opened; the message
            says what to do.
    """
    from evaluation.model import load
    from merging import Recipe, preflight, with_identities
    from merging.engine.identities import gather
    from merging.inputs.vector import DistributionVector
    from merging.recipe.fields import unique_name

    paths: list[Path] = []
    names: list[str] = []
    for path, name in checkpoints:
        paths.append(path)
        # Steps of two training runs may have the same folder name, and a recipe finds its ω by
        # name.
        names.append(unique_name(name or path.name, names))
    if not paths:
        raise SessionError(
            f"no checkpoint is given for {base}. Choose at least one that was fine-tuned from it."
        )
    if vocabulary == "union":
        raise SessionError(
            "vocabulary 'union' cannot be composed in memory. "
            "Write it in a recipe and run dem merge."
        )
    # The preflight reads headers and a few blocks, so a wrong folder is refused before any weights
    # are loaded.
    opened, vectors, problems = preflight(base, paths, names, vocabulary)
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise SessionError("\n".join(f"{problem.subject}: {problem.text}" for problem in errors))
    # Losses are kept under the digests, so they are taken while the weights are read.
    gather([opened, *vectors.values()])
    weights, memory = load_into_memory(opened, vectors)
    loaded = load(base, checkpoint=opened, device=device)
    folders = {name: display_path(vector.path or "") for name, vector in vectors.items()}
    start = with_identities(
        Recipe.compose(display_path(base), folders, vocabulary=vocabulary), opened, vectors
    )
    # Some methods take the base as one more model; its vector is zero.
    name = unique_name("base", names)
    all_vectors = {**vectors, name: DistributionVector(name, weights, weights)}
    return Models(
        base=opened,
        vectors=vectors,
        start=start,
        best=best_omegas(base, list(vectors), reach),
        loaded=loaded,
        composer=Composer(base, loaded, weights, all_vectors),
        data=open_data(data, loaded) if data else {},
        data_folder=data,
        memory=memory,
        notes=(*(f"{p.subject}: {p.text}" for p in problems), *loaded.notes),
    )


def best_omegas(base: Path, names: Sequence[str], reach: Reach) -> Mapping[str, float] | None:
    """Returns the ω of the recipe.yml beside the base, or None if it names other vectors.

    Args:
        base: the base's folder.
        names: the names of the vectors.
        reach: the files that may be read.
    """
    from merging.errors import MergingError
    from merging.recipe import read_recipe

    file = base.parent / "recipe.yml"
    # The base may be a root itself, and what is beside it then is none.
    if not (reach.holds(file) and file.is_file()):
        return None
    try:
        omegas = read_recipe(file).omegas
    # The best ω are only an offer: a damaged recipe must not keep the models from opening.
    except MergingError:
        return None
    usable = all(isinstance(omega, int | float) for omega in omegas.values())
    return (
        {name: float(omegas[name]) for name in names}
        if usable and set(omegas) == set(names)
        else None
    )


def open_data(
    folder: Path,
    loaded: Loaded,
    split: str = "validation",
    quick: Callable[[int], int] | None = None,
) -> dict[str, DataSet]:
    """Reads and tokenises one split of the datasets in a folder.

    Args:
        folder: holds DATASET/<split>.jsonl.
        loaded: the model, with its tokenizer.
        split: the name of the files.
        quick: number of examples of a dataset -> how many of them the quick losses take. If not
            given, as many as this machine measures in a moment.

    Raises:
        CorpusError, EvaluationError, SessionError: the data cannot be measured with this model.
    """
    from corpus.jsonl import read_datasets
    from evaluation.prepared import prepare

    if loaded.tokenizer is None:
        raise SessionError(
            "the base has no tokenizer, so its loss cannot be measured. "
            "Copy tokenizer.json and tokenizer_config.json into its folder."
        )
    datasets = read_datasets(folder, split)
    prepared = {
        name: prepare({name: examples}, loaded.tokenizer) for name, examples in datasets.items()
    }
    numbers = [data.datasets[0].n for data in prepared.values()]
    if quick:
        counts = [quick(n) for n in numbers]
    else:
        lengths = [data.positions / n for data, n in zip(prepared.values(), numbers, strict=True)]
        counts = quick_counts(lengths, _positions_per_second(loaded.module, prepared))
    return {
        name: _dataset(name, examples, loaded.tokenizer, prepared[name], count)
        for (name, examples), count in zip(datasets.items(), counts, strict=True)
    }


def _positions_per_second(module: Any, prepared: Mapping[str, Prepared]) -> float:
    """Measures how many token positions the model computes in a second."""
    from evaluation.loss import Sweep

    positions, begin = 0, 0.0
    # The first batch is not counted: the first call of a module allocates its memory.
    for number, data in enumerate([next(iter(prepared.values())), *prepared.values()]):
        if number == 1:
            positions, begin = 0, time.perf_counter()
        sweep = Sweep(data.datasets)
        sweep.step(module)
        positions += sweep.positions
        if number and time.perf_counter() - begin > QUICK_SECONDS:
            break
    return positions / max(time.perf_counter() - begin, 1e-9)


def _dataset(
    name: str, examples: Sequence[Record], tokenizer: Any, prepared: Prepared, quick: int
) -> DataSet:
    from corpus.chat_tokens import chat_of
    from corpus.prompts import prompts
    from corpus.records import Example, row
    from evaluation.prepared import begin_with

    def content(record: Record) -> Any:
        """Returns all of a record that decides its loss."""
        if chat_of(record, tokenizer) is not None:
            # Raise v2 if the same template gives the same chat other tokens or another mask.
            return [row(record, ""), str(tokenizer.chat_template), "v2"]
        assert isinstance(record, Example)
        return record.prompt, record.completion

    (dataset,) = prepared.datasets
    few, whole = begin_with(dataset, min(quick, dataset.n))
    # The key covers the examples and not their file, so an edited file never shows an old loss.
    # Raise v1 if the loss of the same examples is computed in another way.
    key = fingerprint([[content(record) for record in examples], "v1"])
    return DataSet(
        name,
        {QUICK: replace(prepared, datasets=(few,)), FULL: replace(prepared, datasets=(whole,))},
        {QUICK: key if few.n == whole.n else fingerprint([key, few.n]), FULL: key},
        prompts(examples, tokenizer, 5),
    )


def demo_checkpoints(demo: Path, folders: Folders) -> list[Path]:
    """Returns the checkpoints of a demo folder in the order of its recipe, the others after them.

    Args:
        demo: a folder with base/, one folder per checkpoint and recipe.yml. If the recipe is
            missing or damaged, the checkpoints are in the order of their names.
        folders: the allowed folders, the demo's among them.
    """
    from merging.errors import MergingError
    from merging.recipe import read_recipe

    base, recipe = (demo / "base").resolve(), demo / "recipe.yml"
    siblings = [folder.path for folder in folders.models() if folder.path.parent == base.parent]
    try:
        readable = folders.holds(recipe) and recipe.is_file()
        order = list(read_recipe(recipe).omegas) if readable else []
    except MergingError:
        order = []
    position = {name: number for number, name in enumerate(order)}
    # The order of the vectors decides their colours, so it must not depend on the file system.
    return sorted(
        (path for path in siblings if path != base),
        key=lambda path: (position.get(path.name, len(order)), path.name),
    )
