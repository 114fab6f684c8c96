"""Stage: one run of fine-tuning as a frozen value; what cannot be run is refused when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args, get_type_hints

from corpus.records import Record
from training.errors import TrainingError


@dataclass(frozen=True)
class Lora:
    """A LoRA adapter (Hu et al., 2021): each weight W of the targets becomes W + scale · B·A, and only A and B are trained.

    Attributes:
        rank: inner size of B·A.
        alpha: the scale is alpha / rank, or alpha / √rank with `rslora`; twice the rank if None.
        dropout: share of a target's inputs that its adapter does not see in a step, 0 to 1.
        targets: names of modules, as they end, that get an adapter; every linear layer but the output if empty.
        rslora: rank-stabilised scale (Kalajdzievski, 2023).
    """

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TrainingError(
                f"the rank of a LoRA adapter is {self.rank}; expected 1 or more, for example 16."
            )
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise TrainingError(
                f"alpha of a LoRA adapter is {self.alpha}; expected a number above 0, or None."
            )
        if not 0 <= self.dropout < 1:
            raise TrainingError(
                f"dropout of a LoRA adapter is {self.dropout}; expected at least 0 and below 1."
            )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of fine-tuning: what is trained, on what, and how.

    A step is one update of the weights, from batch · accumulation · processes examples.

    Attributes:
        base: folder of the checkpoint to start from, with its tokenizer.
        base_name: what training.json and an adapter name as their base, where that is not the path above.
        examples: what to learn.
        validation: by name, the datasets on which the loss is measured, on supervised tokens only.
        replay: what to rehearse meanwhile; every batch holds `replay_share` of it.
        replay_share: share of each batch taken from `replay`, 0 to 1.
        steps: how many steps; either this or `epochs`.
        epochs: how often the examples are seen, fractions allowed; the last step is filled up from the next pass.
        rate: highest learning rate.
        schedule: how the rate falls after the warm-up.
        warmup: share of the steps over which the rate rises from 0.
        batch: examples per device in one forward pass.
        accumulation: batches per step, so that a step of batch · accumulation fits where that batch would not.
        decay: weight decay of AdamW.
        beta2: second decay rate of AdamW's averages. Short runs: the usual 0.999 averages over more steps than there are.
        seed: seed of the order of examples, of dropout, and of the adapter's first weights.
        lora: the adapter to train, or None to train the weights themselves.
        adapter: folder of a LoRA adapter on the same base, with the same rank, alpha, targets and rslora, from whose A
            and B training goes on, with a fresh optimiser. A fresh adapter if None.
        frozen: patterns of parameter names that stay as they are, for example "*embed_tokens*".
        precision: "bf16" computes in bfloat16 where that is safe; the weights that are trained stay float32 in either.
            About twice as fast on recent CPUs.
        checkpointing: compute activations again in the backward pass instead of keeping them: less memory, more time.
        max_length: most tokens of an example, longer ones are left out; the tokenizer's limit if None.
        save_dtype: type of the saved weights. A bfloat16 file has 8 bits of mantissa: it loses part of each small delta,
            and the distribution vector is that delta. Hence float32.
        order: "shuffle", or "by_length": 16 batches are drawn together and cut by length, so that less is padded.
        groups: per example the number of its group; each step then comes from one group (CommonIT).
        leftover: what happens with the examples of a group that fill no step: see training.batching.group_sampler.
        group_weights: per group its share of the steps, in any unit; its share of the examples if None.
        evaluate_every: measure `validation` after every so many steps, and at the end; only at the end if None.
        keep: the weights to write: those of the lowest mean validation loss, or the last ones.
        save_every: steps between two states from which an unfinished run goes on; they take 3 or 4 times the weights' space.
        device: "auto" takes an accelerator where there is one.
    """

    base: Path
    examples: tuple[Record, ...]
    base_name: str = ""
    validation: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)
    replay: tuple[Record, ...] = ()
    replay_share: float = 0.0
    steps: int | None = None
    epochs: float | None = None
    rate: float = 6e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.05
    batch: int = 32
    accumulation: int = 1
    decay: float = 0.01
    beta2: float = 0.95
    seed: int = 0
    lora: Lora | None = None
    adapter: Path | None = None
    frozen: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16"] = "bf16"
    checkpointing: bool = False
    max_length: int | None = None
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    order: Literal["shuffle", "by_length"] = "shuffle"
    groups: tuple[int, ...] | None = None
    leftover: Literal["fill", "drop", "mix"] = "fill"
    group_weights: tuple[float, ...] | None = None
    evaluate_every: int | None = None
    keep: Literal["best", "last"] = "last"
    save_every: int = 500
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_numbers(self)
        _check_length_of_run(self)
        _check_data(self)
        _check_groups(self)
        _check_keep(self)


def _check_choices(stage: Stage) -> None:
    for name, hint in get_type_hints(Stage).items():
        known = get_args(hint)
        if (
            known
            and all(isinstance(one, str) for one in known)
            and getattr(stage, name) not in known
        ):
            raise TrainingError(
                f"{name} is {getattr(stage, name)!r}; expected one of: {', '.join(known)}."
            )


def _check_numbers(stage: Stage) -> None:
    least_of = {
        "batch": 1,
        "accumulation": 1,
        "save_every": 1,
        "evaluate_every": 1,
        "max_length": 2,
        "seed": 0,
    }
    for name, least in least_of.items():
        value = getattr(stage, name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < least
        ):
            raise TrainingError(f"{name} is {value!r}; expected a whole number, {least} or more.")
    for name, low, high in (
        ("warmup", 0, 1),
        ("decay", 0, math.inf),
        ("rate", 0, math.inf),
        ("beta2", 0, 1),
    ):
        value = getattr(stage, name)
        inside = low <= value <= high if name == "warmup" else low <= value < high
        if not inside or (name == "rate" and value == 0):
            limits = f"above {low}" if name == "rate" else f"at least {low}"
            upper = {"warmup": " and at most 1", "beta2": " and below 1"}.get(name, "")
            raise TrainingError(f"{name} is {value!r}; expected a number {limits}{upper}.")


def _check_length_of_run(stage: Stage) -> None:
    if (stage.steps is None) == (stage.epochs is None):
        raise TrainingError(
            f"steps is {stage.steps} and epochs is {stage.epochs}; expected exactly one of them. "
            "Give steps=300, or epochs=3 to see every example three times."
        )
    if stage.steps is not None and (
        isinstance(stage.steps, bool) or not isinstance(stage.steps, int) or stage.steps < 1
    ):
        raise TrainingError(f"steps is {stage.steps!r}; expected a whole number, 1 or more.")
    if stage.epochs is not None and not (math.isfinite(stage.epochs) and stage.epochs > 0):
        raise TrainingError(
            f"epochs is {stage.epochs!r}; expected a number above 0, for example 3 or 0.5."
        )


def _check_data(stage: Stage) -> None:
    if stage.adapter is not None and stage.lora is None:
        raise TrainingError(
            f"adapter is {stage.adapter} and lora is None, so no adapter would be trained. Give lora with the rank, alpha, "
            "targets and rslora of that adapter, or no adapter."
        )
    if not stage.examples:
        raise TrainingError("a stage needs examples, and has none. Give at least one.")
    if not 0 <= stage.replay_share < 1:
        raise TrainingError(
            f"replay_share must be at least 0 and below 1, got {stage.replay_share}."
        )
    if stage.replay_share and not stage.replay:
        raise TrainingError(
            f"replay_share is {stage.replay_share} but replay is empty. Give examples or set it to 0."
        )
    if round(stage.batch * stage.replay_share) == stage.batch:
        raise TrainingError(
            f"replay_share {stage.replay_share} of batch {stage.batch} leaves no place for the stage's own examples. "
            "Give a larger batch or a smaller share."
        )
    for name, records in stage.validation.items():
        if not records:
            raise TrainingError(
                f'validation "{name}" holds no examples. Give at least one, or leave the dataset out.'
            )


def _check_groups(stage: Stage) -> None:
    if stage.groups is None:
        if stage.group_weights is not None:
            raise TrainingError(
                "group_weights are given but groups are not. Give groups too, or no weights."
            )
        return
    if len(stage.groups) != len(stage.examples):
        raise TrainingError(
            f"there are {len(stage.examples)} examples and {len(stage.groups)} group numbers. Give one per example."
        )
    if stage.order == "by_length":
        raise TrainingError(
            'order is "by_length" and groups are given: sorting by length would mix the groups of a step. '
            'Set order="shuffle"; to group by length, make the groups with corpus.grouping.by_length.'
        )
    if stage.replay_share:
        raise TrainingError(
            f"replay_share is {stage.replay_share} and groups are given: replay would mix into every step. "
            "Set replay_share=0, or add the replay examples as a group of their own."
        )


def _check_keep(stage: Stage) -> None:
    if stage.keep == "best" and not (stage.validation and stage.evaluate_every):
        missing = "evaluate_every" if stage.validation else "validation"
        raise TrainingError(
            f'keep is "best" but {missing} is not given, so there is nothing to choose by. Give it, or set keep="last".'
        )
    if stage.evaluate_every and not stage.validation:
        raise TrainingError(
            "evaluate_every is given but validation is empty. Give datasets, or set it to None."
        )
