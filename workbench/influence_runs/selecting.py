"""Scores a study's pool for validation examples by any method, and chooses from it.

LESS and the methods that it has to beat differ in their scores only: the same pool, the same
validation examples, the same ways to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from corpus import Record
from evaluation.records.meter import measured
from influence.datastore.scores import example_scores, subtask_scores
from influence.datastore.store import open_datastore
from influence.datastore.targets import Reading
from influence.errors import InfluenceError
from influence.gradients.adam_direction import Kind
from influence.selection.bm25 import bm25_scores
from influence.selection.budget import Budget
from influence.selection.choice_files import write_choice
from influence.selection.choose import ChosenSet, Policy, choose
from influence.selection.example_set import ExampleSet, encode_examples
from influence.selection.overlap import find_overlap
from influence.selection.random_scores import random_scores, stratified_scores
from influence.selection.rds import rds_scores
from influence.selection.reasons import Reasons, explain
from influence.selection.score_matrix import ScoreMatrix, score_matrix
from influence.selection.texts_alike import Alike
from plumbing.suggest import nearest
from workbench.influence_runs.gradient_store import target_gradients
from workbench.influence_runs.study import Study

if TYPE_CHECKING:
    from evaluation.records.ledger import Ledger

Method = Literal["less", "rds", "bm25", "stratified", "random"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class Question:
    """What is asked of a study.

    Attributes:
        method: what scores the examples of the pool.
        kind: for LESS, which stored direction of the pool's gradients is used.
        reading: for LESS with subtasks, mean of cosines or cosine of means.
        centre: for LESS, whether the mean of the stored gradients is subtracted.
        policy: how scores become a choice. "max" and "mean" go by the subtasks, round-robin by
            the single validation examples.
        budget: how much is chosen.
        copies: which texts may be chosen only once; all if None.
        seed: of random scores, and of the order of turns.
    """

    method: Method = "less"
    kind: Kind = "sgd"
    reading: Reading = "mean_of_cos"
    centre: bool = False
    policy: Policy = "round_robin"
    budget: Budget = field(default_factory=lambda: Budget(0.05))
    copies: Alike | None = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InfluenceError for an unknown method or reading."""
        for what, name, known in (
            ("method", self.method, METHODS),
            ("reading", self.reading, get_args(Reading)),
        ):
            if name not in known:
                raise InfluenceError(f"the {what} {name!r} is unknown; {nearest(name, known)}")


@dataclass(frozen=True)
class StudyAnswer:
    """What was chosen, from what, and why."""

    pool: ExampleSet
    targets: ExampleSet
    choice: ChosenSet
    reasons: Reasons
    overlap: str
    """A sentence if validation examples are in the pool too; else ""."""

    def write(self, path: Path, study: Study) -> None:
        """Writes the selection, which a plan can name as a source, and the same as CSV."""
        write_choice(path, study.sources, self.pool, self.choice)


def ask(
    study: Study,
    targets: Mapping[str, Sequence[Record]],
    question: Question,
    *,
    device: str = "cpu",
    ledger: Ledger | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> StudyAnswer:
    """Scores the pool of a study and chooses from it.

    Args:
        study: the study; for LESS its warm-up and its store of this kind are finished.
        targets: name of a subtask -> its validation examples.
        question: what is asked.
        device: torch's name of the device that LESS and RDS+ compute on.
        ledger: where the cost is written; nowhere if None.
        progress: called with the passes of examples through a model that are done, and with all
            that the method needs; not called by methods that need no model.
        should_stop: asked between batches.

    Raises:
        InfluenceError: the examples cannot be scored, or too few can be chosen.
        InfluenceStopped: `should_stop` returned True.
        SessionError: the pool has changed, or the warm-up is not finished.
    """
    pool, wanted, scores = scored(
        study,
        targets,
        question,
        device=device,
        ledger=ledger,
        progress=progress,
        should_stop=should_stop,
    )
    choice = choose(
        pool,
        scores,
        question.budget,
        policy=question.policy,
        copies=question.copies,
        seed=question.seed,
    )
    reasons = explain(pool, wanted, scores, choice)
    return StudyAnswer(pool, wanted, choice, reasons, find_overlap(pool, wanted).in_words)


def scored(
    study: Study,
    targets: Mapping[str, Sequence[Record]],
    question: Question,
    *,
    device: str = "cpu",
    ledger: Ledger | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[ExampleSet, ExampleSet, ScoreMatrix]:
    """Returns the pool, the validation examples, and the scores; arguments and errors as `ask`."""
    from training.run.base import open_base

    tokenizer = open_base(Path(study.base)).tokenizer
    pool = encode_examples(study.pool(), tokenizer)
    wanted = encode_examples(targets, tokenizer)
    with measured(ledger, "influence", f"scores by {question.method}", device=device) as meter:
        follow = Following(device, progress, should_stop)
        scores = _scores(study, pool, wanted, question, follow)
        meter.count(len(pool) + len(wanted))
    return pool, wanted, scores


class Following(NamedTuple):
    """Where scores are computed, and who follows it; the fields are arguments of `ask`."""

    device: str
    progress: Callable[[int, int], None]
    should_stop: Callable[[], bool]


def _scores(
    study: Study, pool: ExampleSet, targets: ExampleSet, question: Question, follow: Following
) -> ScoreMatrix:
    """Returns the scores of a method: for each validation example, or for each subtask."""
    match question.method:
        case "random":
            return random_scores(pool, question.seed)
        case "stratified":
            return stratified_scores(pool, question.seed)
        case "bm25":
            return bm25_scores(pool, targets)
        case "rds":
            return rds_scores(
                _base_model(study, follow.device),
                pool,
                targets,
                progress=follow.progress,
                should_stop=follow.should_stop,
            )
        case "less":
            return _less_scores(study, pool, targets, question, follow)


def _less_scores(
    study: Study, pool: ExampleSet, targets: ExampleSet, question: Question, follow: Following
) -> ScoreMatrix:
    store = open_datastore(study.store(question.kind))
    found = target_gradients(study, targets.records, store.settings.projection, **follow._asdict())
    name = f"LESS ({question.kind})"
    if question.policy == "round_robin":
        values = example_scores(store, found, centre=question.centre)
        return score_matrix(name, values, pool, targets.names)
    subtasks = subtask_scores(
        store,
        found,
        [each.source for each in targets.examples],
        reading=question.reading,
        centre=question.centre,
    )
    return score_matrix(name, subtasks.values, pool, subtasks.subtasks)


def _base_model(study: Study, device: str) -> Any:
    from evaluation.model import load
    from merging import Checkpoint

    return load(Path(study.base), checkpoint=Checkpoint(study.base), device=device).module
