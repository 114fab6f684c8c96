"""Stores the projected gradients of a study's pool, and computes those of validation examples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from corpus import Record
from corpus.records import digest
from evaluation.records.meter import measured
from influence.datastore.coverage import Coverage
from influence.datastore.store_settings import StoredCheckpoint, StoredSource, StoreSettings
from influence.datastore.store_writer import DatastoreWriter
from influence.errors import InfluenceStopped
from influence.gradients.adam_direction import Kind
from influence.projection.projector import Projection
from influence.selection.example_set import ExampleSet, encode_examples
from workbench.influence_runs.projected_gradients import WarmEpoch, WarmModel, warm_epochs
from workbench.influence_runs.study import Study

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger

BLOCK = 256
"""Examples whose rows are computed and written together."""


def store_gradients(
    study: Study,
    kind: Kind,
    projection: Projection,
    *,
    device: str = "cpu",
    process: int = 0,
    processes: int = 1,
    ledger: Ledger | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Coverage:
    """Stores the gradients of the pool at every checkpoint, or continues to.

    Args:
        study: a study whose warm-up is finished.
        kind: which direction is stored.
        projection: how gradients become d numbers.
        device: torch's name of the device.
        process: number of this process, from 0, of those that store the gradients together.
        processes: how many they are. Process 1 of 4 computes the examples 1, 5, 9, …; the
            one that finishes last completes the store.
        ledger: where the cost is written; nowhere if None.
        progress: called with the rows written and the rows in all, of this process's examples.
        should_stop: asked between batches.

    Raises:
        InfluenceError: an example cannot be used, or the store was begun with other settings.
        InfluenceStopped: `should_stop` returned True; what was stored is kept.
        SessionError: the warm-up is not finished, or the pool has changed.
    """
    epochs, model = warm_epochs(study), WarmModel(study, device)
    pool = encode_examples(study.pool(), model.tokenizer)
    settings = store_settings(pool, epochs, kind, projection, model.tokenizer)
    name = f"gradients of the pool ({kind})"
    with (
        measured(ledger, "influence", name, device=device) as meter,
        DatastoreWriter(study.store(kind), settings) as writer,
    ):
        own = range(process, settings.examples, processes)
        missing = [writer.missing(number, own) for number in range(len(epochs))]
        total = len(own) * len(epochs)
        done = total - sum(map(len, missing))
        for number, (epoch, left) in enumerate(zip(epochs, missing, strict=True)):
            if not left:
                continue
            rows, rest = model.at(epoch, kind), iter(left)
            while block := list(islice(rest, BLOCK)):
                progress(done, total)
                if should_stop():
                    raise InfluenceStopped("stopped; what was stored is kept")
                records = [pool.examples[row].record for row in block]
                writer.put(number, block, rows.of(records, projection, should_stop=should_stop))
                done += len(block)
                meter.count(len(block), sum(pool.examples[row].tokens for row in block))
        progress(done, total)
        return writer.finish()


def store_settings(
    pool: ExampleSet,
    epochs: Sequence[WarmEpoch],
    kind: Kind,
    projection: Projection,
    tokenizer: Any,
) -> StoreSettings:
    """Returns everything that determines the rows of a study's store."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return StoreSettings(
        sources=tuple(
            StoredSource(name, len(own), digest(own)) for name, own in pool.records.items()
        ),
        checkpoints=tuple(
            StoredCheckpoint(f"epoch {each.number}", each.digest(kind), each.mean_rate)
            for each in epochs
        ),
        kind=kind,
        projection=projection,
        tokenisation={
            "longest": tokenizer.model_max_length,
            "chat template": hashlib.sha256(template.encode()).hexdigest()[:16],
        },
    )


def target_gradients(
    study: Study,
    targets: Mapping[str, Sequence[Record]],
    projection: Projection,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Tensor]:
    """Returns the projected gradients of validation examples at each checkpoint, (V, d) each.

    They are plain gradients, whatever is stored of the pool (LESS, arXiv 2402.04333, section 3).

    Args:
        study: a study whose warm-up is finished.
        targets: name of a subtask -> its validation examples.
        projection, device, should_stop: as in store_gradients.
        progress: called with the gradients that are computed and the gradients in all.

    Raises:
        InfluenceError, InfluenceStopped, SessionError: as store_gradients.
    """
    model = WarmModel(study, device)
    records = [record for own in targets.values() for record in own]
    epochs = warm_epochs(study)
    found = []
    for number, epoch in enumerate(epochs):
        progress(number * len(records), len(epochs) * len(records))
        found.append(model.at(epoch, "sgd").of(records, projection, should_stop=should_stop))
    progress(len(epochs) * len(records), len(epochs) * len(records))
    return found
