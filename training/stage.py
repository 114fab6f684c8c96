"""Stage: one run of fine-tuning as a frozen value, checked when it is made."""

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
    """Settings of a LoRA adapter (Hu et al., 2021, arXiv 2106.09685).

    Each weight W of the targets becomes W + scale · B·A, and only A and B are trained.

    Attributes:
        rank: inner size of B·A, 1 or more.
        alpha: numerator of the scale, which is alpha / rank, or alpha / √rank with `rslora`;
            twice the rank if None.
        dropout: share of the inputs of each target that its adapter ignores in a step, at least 0
            and below 1.
        targets: endings of the names of the modules that get an adapter; every linear layer
            except the output layer if empty.
        rslora: whether to use the rank-stabilised scale (Kalajdzievski, 2023, arXiv 2312.03732).

    Raises:
        TrainingError: rank, alpha or dropout is out of its range.
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
    """One run of fine-tuning: the base, the data and every setting.

    A step is one update of the weights. It takes batch · accumulation · processes examples.

    Attributes:
        base: folder of the checkpoint to start from, with its tokenizer.
        base_name: name of the base in training.json and in an adapter; the path `base` if empty.
        examples: the training data.
        validation: name -> a dataset on which the loss is measured, on supervised tokens only.
        replay: examples to rehearse against forgetting; each batch takes `replay_share` from them.
        replay_share: share of each batch taken from `replay`, at least 0 and below 1.
        steps: number of steps. Give either this or `epochs`.
        epochs: number of passes over the examples; fractions are allowed. The last step is filled
            up from the next pass.
        rate: highest learning rate.
        schedule: how the learning rate falls after the warm-up.
        warmup: share of the steps over which the learning rate rises from 0, 0 to 1.
        batch: examples per device in one forward pass.
        accumulation: batches per step and device. A step of batch · accumulation examples needs
            the memory of one batch only.
        decay: weight decay of AdamW.
        beta2: decay rate of AdamW's second average. The usual 0.999 averages over about 1,000
            steps, more than a short run has; hence the lower default.
        seed: seed of the order of examples, of dropout, and of the adapter's first weights.
        lora: the adapter to train; None trains the weights themselves.
        adapter: folder of a LoRA adapter to continue. It must be on the same base and have the
            same rank, alpha, targets and rslora; the optimiser starts anew. A new adapter if None.
        frozen: patterns of names of parameters that are not trained, such as "*embed_tokens*".
        precision: "bf16" computes in bfloat16 where that is safe, about twice as fast on recent
            CPUs. The trained weights are float32 with either value.
        checkpointing: whether to compute activations again in the backward pass instead of
            keeping them, which takes less memory and more time.
        max_length: largest number of tokens of an example; longer ones are left out. The
            tokenizer's limit if None.
        save_dtype: dtype of the saved weights. bfloat16 has 8 bits of mantissa, so a bfloat16 file
            loses part of each small delta, and a distribution vector consists of these deltas.
        order: "shuffle" draws at random. "by_length" draws 16 batches together and cuts them by
            length, so that less is padded.
        groups: the group number of each example. Each step then comes from one group (CommonIT,
            arXiv 2410.03077). No groups if None.
        leftover: treatment of a group's examples that do not fill a step; see
            training.batching.group_sampler.
        group_weights: each group's share of the steps, in any unit. If None, it is the group's
            share of the examples.
        evaluate_every: number of steps between two measurements of `validation`. The last step is
            always measured; only the last one if None.
        keep: which weights to write: "best" has the lowest mean validation loss, "last" is the
            last step.
        save_every: number of steps between two saved states, from which an unfinished run can
            continue. A state takes 3 to 4 times the space of the trained weights.
        device: "auto" takes an accelerator if there is one.

    Raises:
        TrainingError: a value is out of its range, or two fields contradict each other.
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
        # Single values first, because the checks after them calculate with several.
        _check_choices(self)
        _check_numbers(self)
        _check_length_of_run(self)
        _check_data(self)
        _check_groups(self)
        _check_keep(self)


def _check_choices(stage: Stage) -> None:
    # Derived from the types, so that the choices of a field are written once.
    for name, hint in get_type_hints(Stage).items():
        choices = get_args(hint)
        # get_args also returns the members of unions and tuples; only a Literal has text members.
        if (
            choices
            and all(isinstance(choice, str) for choice in choices)
            and getattr(stage, name) not in choices
        ):
            raise TrainingError(
                f"{name} is {getattr(stage, name)!r}; expected one of: {', '.join(choices)}."
            )


def _check_numbers(stage: Stage) -> None:
    minimums = {
        "batch": 1,
        "accumulation": 1,
        "save_every": 1,
        "evaluate_every": 1,
        "max_length": 2,
        "seed": 0,
    }
    for name, minimum in minimums.items():
        value = getattr(stage, name)
        # bool is a subclass of int, and `batch: true` is a mistake.
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < minimum
        ):
            raise TrainingError(f"{name} is {value!r}; expected a whole number, {minimum} or more.")
    for name, low, high in (
        ("warmup", 0, 1),
        ("decay", 0, math.inf),
        ("rate", 0, math.inf),
        ("beta2", 0, 1),
    ):
        value = getattr(stage, name)
        # Written so that NaN, which compares False with every number, is outside.
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
            f"adapter is {stage.adapter} and lora is None, so no adapter would be trained. "
            "Give lora with the rank, alpha, targets and rslora of that adapter, or no adapter."
        )
    if not stage.examples:
        raise TrainingError("a stage needs examples, and has none. Give at least one.")
    if not 0 <= stage.replay_share < 1:
        raise TrainingError(
            f"replay_share must be at least 0 and below 1, got {stage.replay_share}."
        )
    if stage.replay_share and not stage.replay:
        raise TrainingError(
            f"replay_share is {stage.replay_share} but replay is empty. "
            "Give examples or set it to 0."
        )
    # The order of batches rounds in the same way.
    if round(stage.batch * stage.replay_share) == stage.batch:
        raise TrainingError(
            f"replay_share {stage.replay_share} of batch {stage.batch} leaves no place for the "
            "stage's own examples. Give a larger batch or a smaller share."
        )
    for name, records in stage.validation.items():
        if not records:
            raise TrainingError(
                f'validation "{name}" holds no examples. '
                "Give at least one, or leave the dataset out."
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
            f"there are {len(stage.examples)} examples and {len(stage.groups)} group numbers. "
            "Give one per example."
        )
    if stage.order == "by_length":
        raise TrainingError(
            'order is "by_length" and groups are given: sorting by length would mix the groups '
            'of a step. Set order="shuffle"; to group by length, make the groups with '
            "corpus.grouping.by_length."
        )
    if stage.replay_share:
        raise TrainingError(
            f"replay_share is {stage.replay_share} and groups are given: replay would mix into "
            "every step. Set replay_share=0, or add the replay examples as a group of their own."
        )


def _check_keep(stage: Stage) -> None:
    if stage.keep == "best" and not (stage.validation and stage.evaluate_every):
        missing = "evaluate_every" if stage.validation else "validation"
        raise TrainingError(
            f'keep is "best" but {missing} is not given, so there is nothing to choose by. '
            'Give it, or set keep="last".'
        )
    if stage.evaluate_every and not stage.validation:
        raise TrainingError(
            "evaluate_every is given but validation is empty. Give datasets, or set it to None."
        )
