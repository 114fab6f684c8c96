"""Hidden-states job: lays out the hidden states of validation examples in a picture by t-SNE.

The examples are coloured by dataset, or by the groups from which CommonIT would make its batches:
ranges of response length, or clusters of the states. A picture is kept in the workdir under a
digest of everything that decides it, so that a page that opens later finds it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbing.atomic import write_whole
from workbench.errors import SessionError
from workbench.jobs.frozen import with_frozen
from workbench.session.job_table import Handle, Job
from workbench.session.keys import fingerprint, weights_key
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from evaluation.hidden_states import States
    from evaluation.layout import Scatter
    from evaluation.prepared import Prepared
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session

KIND = "picture"
"""The kind of the job."""
EXAMPLES = 50
"""How many of the first validation examples of each dataset are used."""
SEED = 0
"""Seed of t-SNE and of the clusters."""
DATASETS, LENGTHS, CLUSTERS = "datasets", "ranges of response length", "clusters"
"""What the examples are grouped by."""
GROUPS = 5
"""Number of ranges or clusters; the picture has no more shapes and colours to tell groups apart."""
STATES = "hidden states"
"""Name of the job's phase in the ledger."""


def depth(models: Models) -> int:
    """Returns the number of layers of the live module."""
    # Models that also take images keep the layers of their language model in a part of the config.
    config: Any = models.loaded.module.config
    return int(config.get_text_config().num_hidden_layers)


def submit(session: Session, recipe: Recipe, layer: int, by: str = DATASETS) -> Job:
    """Starts a job that draws a composition's hidden states at one layer.

    Args:
        session: with open models and data.
        recipe: the composition.
        layer: 0 for the embeddings, 1 to depth(models) for the output of that layer.
        by: DATASETS, LENGTHS or CLUSTERS.

    Raises:
        SessionError: no data are open, or there is no such layer.
    """
    from merging.recipe.formula import formula

    models = session.models
    if not models.data or models.data_folder is None:
        raise SessionError("no validation data is open. Choose a data folder under Models first.")
    if not 0 <= layer <= depth(models):
        raise SessionError(
            f"layer is {layer}; this model has 0 (the embeddings) to {depth(models)}."
        )
    file = _file(session, recipe, layer, by)

    def work(handle: Handle) -> str:
        from evaluation.hidden_states import hidden_states
        from evaluation.layout import scatter
        from evaluation.records.meter import measured
        from evaluation.unpadded import equal_length_batches

        prepared = _examples(models)
        # One step per batch, and one for the layout.
        total, done = sum(1 for _ in equal_length_batches(prepared, alone=False)) + 1, 0

        # Asked once per batch, so it counts the batches as well. A cancelled job leaves through
        # `progress`, which raises Cancelled.
        def stop() -> bool:
            nonlocal done
            handle.progress(done, total, "reading states")
            done += 1
            return False

        with measured(
            session.ledger, "evaluation", STATES, device=session.device, digest=weights_key(recipe)
        ) as spent:
            states = with_frozen(
                session,
                models,
                recipe,
                lambda module: hidden_states(module, prepared, layer, should_stop=stop),
            )
            spent.count(len(states.labels), prepared.positions)
        handle.progress(total - 1, total, "laying out by t-SNE")
        picture = scatter(states, SEED, groups=_groups(states, prepared, by), by=by)
        _write(file, picture)
        return picture.caption

    title = f"hidden states of {formula(recipe)} at layer {layer} by {by}"
    return session.jobs.submit(KIND, title, work, key=file.stem)


def _groups(states: States, prepared: Prepared, by: str) -> list[str] | None:
    """Returns the group of each example in the order of the states, or None for DATASETS."""
    from corpus.grouping import by_kmeans, by_length

    if by == DATASETS:
        return None
    grouping = (
        by_kmeans(states.vectors, GROUPS, SEED)
        if by == CLUSTERS
        else by_length(_lengths(prepared), GROUPS)
    )
    return [grouping.labels[group] for group in grouping.of]


def _lengths(prepared: Prepared) -> list[int]:
    """Returns the number of supervised tokens of each example, dataset by dataset, in order."""
    from evaluation.unpadded import equal_length_batches

    # Batches are ordered by length, but the states are in the order of the examples.
    starts, total = {}, 0
    for dataset in prepared.datasets:
        starts[dataset.name], total = total, total + dataset.n
    lengths = [0] * total
    for part in equal_length_batches(prepared, alone=False):
        for row, example in enumerate(part.examples):
            lengths[starts[part.dataset] + int(example)] = int((part.rows == row).sum())
    return lengths


def find(session: Session, recipe: Recipe, layer: int, by: str = DATASETS) -> Scatter | None:
    """Returns the picture if it was drawn before, else None; arguments as for submit."""
    from evaluation.layout import Scatter, Silhouette

    file = _file(session, recipe, layer, by)
    if not file.exists():
        return None
    import numpy as np

    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    score = content["silhouette"]
    points = np.array(content["points"], dtype=np.float32)
    return Scatter(
        **content
        | {"points": points, "labels": tuple(content["labels"])}
        | {"silhouette": None if score is None else Silhouette(**score)}
    )


def _file(session: Session, recipe: Recipe, layer: int, by: str) -> Path:
    """Returns the file of a picture, named by a digest of everything that decides the picture."""
    models = session.models
    data = {name: dataset.keys[FULL] for name, dataset in models.data.items()}
    key = [models.identity(recipe), data, EXAMPLES, layer, SEED, by, GROUPS]
    return session.workdir.pictures / f"{fingerprint(key)[:16]}.json"


def _examples(models: Models) -> Prepared:
    """Returns the first EXAMPLES examples of each open dataset, tokenised."""
    from corpus.jsonl import read_datasets
    from evaluation.prepared import prepare

    # Read again, because the open datasets are prepared in two other sizes.
    assert models.data_folder is not None  # submit() refuses models without data
    examples = {
        name: rows
        for name, rows in read_datasets(models.data_folder).items()
        if name in models.data
    }
    return prepare(examples, models.loaded.tokenizer, limit=EXAMPLES)


def _write(file: Path, picture: Scatter) -> None:
    """Writes a picture as JSON; a page never sees half a file."""
    score = picture.silhouette and picture.silhouette._asdict()
    content = asdict(picture) | {"points": picture.points.tolist(), "silhouette": score}
    file.parent.mkdir(exist_ok=True)
    write_whole(file, json.dumps(content) + "\n")
