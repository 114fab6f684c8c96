"""Stage: one run of fine-tuning as a frozen value, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from corpus.records import Record
from training.adapter import Lora
from training.choices import BaseDtype, Optimiser, Schedule, TooLong, Tracker
from training.errors import TrainingError
from training.numbers import check_numbers


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
        schedule: how the learning rate falls after the warm-up; the names are transformers'.
        schedule_options: numbers that a schedule takes, such as min_lr_rate of
            cosine_with_min_lr; see transformers' get_scheduler.
        warmup: share of the steps over which the learning rate rises from 0, 0 to 1.
        batch: examples per device in one forward pass.
        accumulation: batches per step and device. A step of batch · accumulation examples needs
            the memory of one batch only.
        optimiser: the optimiser; the names are transformers'. Those with bnb, paged, lion or
            ademamix need the package bitsandbytes.
        decay: weight decay of the optimiser.
        beta1: decay rate of AdamW's first average.
        beta2: decay rate of AdamW's second average. The usual 0.999 averages over about 1,000
            steps, more than a short run has; hence the lower default.
        clip: largest norm of a step's gradient; a longer one is scaled down. No limit if None.
        noise: size α of the noise that is added to the embeddings in each step (NEFTune,
            arXiv 2310.05914); 0 for none.
        seed: seed of the order of examples, of dropout, and of the adapter's first weights.
        lora: the adapter to train; None trains the weights themselves.
        adapter: folder of a LoRA adapter to continue. It must be on the same base and have the
            same rank, alpha, targets and rslora; the optimiser starts anew. A new adapter if None.
        frozen: patterns of names of parameters that are not trained, such as "*embed_tokens*".
        precision: "bf16" computes in bfloat16 where that is safe, and in float32 on CPUs without
            instructions for bfloat16, unless `base_dtype` is "bfloat16". The trained weights are
            float32 with either value.
        base_dtype: dtype in which the weights below an adapter are held. "auto" is bfloat16 if the
            base's files are and the run computes in it, and otherwise float32. bfloat16 takes half
            of the memory, and "nf4" an eighth for linear layers (QLoRA, arXiv 2305.14314), with the
            package bitsandbytes. Weights that are trained themselves are float32.
        attention: implementation of attention; transformers chooses it if "auto".
        liger: whether to use the kernels of the package liger-kernel, which need less memory; on
            accelerators only.
        checkpointing: whether to compute activations again in the backward pass instead of
            keeping them, which takes less memory and more time.
        max_length: largest number of tokens of an example. The tokenizer's limit if None.
        too_long: "drop" leaves longer examples out. "cut" cuts them off, which teaches half
            answers; an example of which no supervised token remains is left out.
        save_dtype: dtype of the saved weights. bfloat16 has 8 bits of mantissa, so a bfloat16 file
            loses part of each small delta, and a distribution vector consists of these deltas.
        order: "shuffle" draws at random. "by_length" draws 16 batches together and cuts them by
            length, so that less is padded.
        packing: whether the examples of a batch share rows, with little or no padding. No example
            attends to another, so the weights are the same up to rounding.
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
        patience: number of measurements without a lower mean validation loss after which the run
            ends early; only with keep="best". Never if None.
        keep_epochs: whether to keep a checkpoint at the end of every pass over the examples, with
            the averages of the optimiser; see training.run.epochs. Each takes 3 times the space of
            the trained weights.
        save_every: number of steps between two saved states, from which an unfinished run can
            continue. A state takes 3 to 4 times the space of the trained weights.
        report_to: programs besides training.json that get the curve while the run trains. The
            files of "tensorboard" are in <out>.tensorboard; "trackio" and "wandb" are set up by
            their own environment variables.
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
    schedule: Schedule = "cosine"
    schedule_options: Mapping[str, float] = field(default_factory=dict)
    warmup: float = 0.05
    batch: int = 32
    accumulation: int = 1
    optimiser: Optimiser = "adamw_torch_fused"
    decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float | None = 1.0
    noise: float = 0.0
    seed: int = 0
    lora: Lora | None = None
    adapter: Path | None = None
    frozen: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16"] = "bf16"
    base_dtype: BaseDtype = "auto"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    liger: bool = False
    checkpointing: bool = False
    max_length: int | None = None
    too_long: TooLong = "drop"
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    order: Literal["shuffle", "by_length"] = "shuffle"
    packing: bool = False
    groups: tuple[int, ...] | None = None
    leftover: Literal["fill", "drop", "mix"] = "fill"
    group_weights: tuple[float, ...] | None = None
    evaluate_every: int | None = None
    keep: Literal["best", "last"] = "last"
    patience: int | None = None
    keep_epochs: bool = False
    save_every: int = 500
    report_to: tuple[Tracker, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        # Single values first, because the checks after them calculate with several.
        _check_choices(self)
        check_numbers(self)
        _check_length_of_run(self)
        _check_data(self)
        _check_groups(self)
        _check_keep(self)
        _check_dtype(self)


def _check_choices(stage: Stage) -> None:
    # Derived from the types, so that the choices of a field are written once.
    for name, hint in get_type_hints(Stage).items():
        several = get_origin(hint) is tuple
        choices = get_args(get_args(hint)[0] if several else hint)
        # get_args also returns the members of unions; only a Literal has text members.
        if not choices or not all(isinstance(choice, str) for choice in choices):
            continue
        given = getattr(stage, name)
        if several and not isinstance(given, tuple):
            raise TrainingError(f"{name} is {given!r}; expected a tuple, such as {choices[:1]!r}.")
        for value in given if several else (given,):
            if value not in choices:
                raise TrainingError(f"{name} is {value!r}; expected one of: {', '.join(choices)}.")


def _check_dtype(stage: Stage) -> None:
    if stage.base_dtype in ("bfloat16", "nf4") and stage.lora is None:
        raise TrainingError(
            f'base_dtype is "{stage.base_dtype}" and lora is None: weights that are trained are '
            "float32. Give lora, or leave base_dtype out."
        )
    if stage.base_dtype == "bfloat16" and stage.precision == "fp32":
        raise TrainingError(
            'base_dtype is "bfloat16" and precision is "fp32", which computes in float32. '
            'Set precision="bf16", or leave base_dtype out.'
        )


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
    if stage.patience is not None and stage.keep != "best":
        raise TrainingError(
            f'patience is {stage.patience} and keep is "{stage.keep}": a run that ends early keeps '
            'its best weights. Set keep="best", or no patience.'
        )
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
