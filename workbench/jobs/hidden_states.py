"""The picture of a model's hidden states, as a job: a bounded number of validation examples, laid out by t-SNE.

It shows datasets, or the groups from which CommonIT would make its batches: by response length, or clusters of the states.

A picture is kept in the workdir under what decides it, so that a page that opens later finds it drawn.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbing.atomic import write_whole
from workbench.errors import SessionError
from workbench.session.job_table import Handle, Job
from workbench.session.keys import fingerprint, weights_key
from workbench.session.sizes import FULL

if TYPE_CHECKING:
    from evaluation.hidden_states import States
    from evaluation.layout import Scatter
    from evaluation.loss import Prepared
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session

KIND = "picture"
EXAMPLES = 50
"""The first so many validation examples of each dataset."""
SEED = 0
DATASETS, LENGTHS, CLUSTERS = "datasets", "ranges of response length", "clusters"
"""What the examples are grouped by."""
GROUPS = 5
"""Ranges of lengths, or clusters: no more than there are shapes and colours to tell apart."""
STATES = "hidden states"
"""The name of its phase in the ledger."""


def depth(models: Models) -> int:
    """How many layers the model has."""
    config: Any = models.loaded.module.config
    return int(config.get_text_config().num_hidden_layers)


def submit(session: Session, recipe: Recipe, layer: int, by: str = DATASETS) -> Job:
    """Draw a composition's hidden states at a layer: 0 for the embeddings, 1 to `depth` for the output of a layer.

    Args:
        session: with open models and data.
        recipe: the composition.
        layer: which.
        by: DATASETS, LENGTHS or CLUSTERS.

    Raises:
        SessionError: no data is open, or no such layer.
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
        total, done = sum(1 for _ in equal_length_batches(prepared, alone=False)) + 1, 0

        def stop() -> bool:
            nonlocal done
            handle.progress(done, total, "reading states")
            done += 1
            return False

        with measured(
            session.ledger, "evaluation", STATES, device=session.device, digest=weights_key(recipe)
        ) as spent:
            states = session.with_frozen(
                models,
                recipe,
                lambda module: hidden_states(module, prepared, layer, should_stop=stop),
            )
            spent.count(len(states.labels), prepared.positions)
        handle.progress(total - 1, total, "laying out by t-SNE")
        made = scatter(states, SEED, groups=_groups(states, prepared, by), by=by)
        _write(file, made)
        return made.caption

    title = f"hidden states of {formula(recipe)} at layer {layer} by {by}"
    return session.jobs.submit(KIND, title, work, key=file.stem)


def _groups(states: States, prepared: Prepared, by: str) -> list[str] | None:
    """The group of each example, in the order of the states; None where the datasets are what is looked at."""
    from corpus.grouping import by_kmeans, by_length

    if by == DATASETS:
        return None
    found = (
        by_kmeans(states.vectors, GROUPS, SEED)
        if by == CLUSTERS
        else by_length(_lengths(prepared), GROUPS)
    )
    return [found.labels[group] for group in found.of]


def _lengths(prepared: Prepared) -> list[int]:
    """Supervised tokens of each example, dataset by dataset, in the order of the examples."""
    from evaluation.unpadded import equal_length_batches

    starts, total = {}, 0
    for dataset in prepared.datasets:
        starts[dataset.name], total = total, total + dataset.n
    lengths = [0] * total
    for part in equal_length_batches(prepared, alone=False):
        for row, example in enumerate(part.examples):
            lengths[starts[part.dataset] + int(example)] = int((part.rows == row).sum())
    return lengths


def find(session: Session, recipe: Recipe, layer: int, by: str = DATASETS) -> Scatter | None:
    """The picture where it was drawn before, else None."""
    from evaluation.layout import Scatter, Silhouette

    file = _file(session, recipe, layer, by)
    if not file.exists():
        return None
    import numpy as np

    kept: dict[str, Any] = json.loads(file.read_text("utf-8"))
    score = kept["silhouette"]
    return Scatter(
        **kept
        | {"points": np.array(kept["points"], dtype=np.float32), "labels": tuple(kept["labels"])}
        | {"silhouette": None if score is None else Silhouette(**score)}
    )


def _file(session: Session, recipe: Recipe, layer: int, by: str) -> Path:
    models = session.models
    data = {name: one.keys[FULL] for name, one in models.data.items()}
    decides = [models.identity(recipe), data, EXAMPLES, layer, SEED, by, GROUPS]
    return session.workdir.pictures / f"{fingerprint(decides)[:16]}.json"


def _examples(models: Models) -> Prepared:
    """The first examples of each dataset that is open."""
    from corpus.jsonl import read_datasets
    from evaluation.loss import prepare

    assert models.data_folder is not None  # looked at before the job began
    found = {
        name: rows
        for name, rows in read_datasets(models.data_folder).items()
        if name in models.data
    }
    return prepare(found, models.loaded.tokenizer, limit=EXAMPLES)


def _write(file: Path, made: Scatter) -> None:
    """A file that appears whole."""
    score = made.silhouette and made.silhouette._asdict()
    content = asdict(made) | {"points": made.points.tolist(), "silhouette": score}
    file.parent.mkdir(exist_ok=True)
    write_whole(file, json.dumps(content) + "\n")
