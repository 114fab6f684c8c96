"""A proxy: a model that is trained only to find the weights of its domains.

It is trained as an ordinary training trains: from the base, with the same parameters, optimiser,
learning rates, precision and limit of the gradient. Its loop is in influence.balance.proxy_loops.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.loss import token_losses
from evaluation.prepared import Batch
from influence.balance.proxy_data import Drawn, ProxyData
from influence.gradients.domain_means import trained_parameters
from training.run import memory
from training.run.setup import choose_device, optimiser_and_schedule, quiet, set_up
from training.run.shared import Shared
from training.stage import Stage


@dataclass(frozen=True)
class Proxy:
    """A model with what trains it.

    Attributes:
        module: a causal language model of transformers in training mode, on any device.
        optimiser: of the parameters that are trained.
        schedule: of its learning rate.
        data: what it is trained on.
        clip: largest norm of a gradient; no limit if None.
        bf16: whether it computes in bfloat16, with weights as they are.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    data: ProxyData
    clip: float | None = 1.0
    bf16: bool = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return list(trained_parameters(self.module).values())

    @property
    def rate(self) -> float:
        """The learning rate of the next update."""
        return float(self.schedule.get_last_lr()[0])

    def backward(self, drawn: Drawn, weight: float = 1.0) -> list[Tensor]:
        """Adds weight times the gradient of the mean loss of some examples to the parameters' own.

        Args:
            drawn: the examples.
            weight: what their loss counts.

        Returns:
            For each batch of `drawn`, the loss of each supervised token in nats, (tokens,).
        """
        found = []
        for batch in drawn.batches:
            losses = batch_losses(self.module, batch, self.bf16)
            (losses.sum() * (weight / drawn.supervised)).backward()  # type: ignore[no-untyped-call]
            found.append(losses.detach())
        return found

    def clip_gradient(self) -> None:
        """Scales the gradient of all parameters down to the limit, if it is longer."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)

    def update(self) -> None:
        """Updates the parameters by their gradients, which are then gone."""
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)


def batch_losses(module: nn.Module, batch: Batch, bf16: bool) -> Tensor:
    """Returns the loss of each supervised token of a batch in nats, (tokens,), row after row.

    Args:
        module: a causal language model of transformers.
        batch: the examples.
        bf16: whether to compute in bfloat16; see Proxy.
    """
    selects = "logits_to_keep" in inspect.signature(module.forward).parameters
    device = next(module.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        return token_losses(module, batch, selects, None)


def open_proxy(stage: Stage, data: ProxyData, shared: Shared, *, gradients: int = 1) -> Proxy:
    """Loads the base of a stage as a proxy, before its first step.

    Args:
        stage: what influence.balance.proxy_data.proxy_stage returned.
        data: the data of this stage.
        shared: keeps its tokens.
        gradients: how many gradients its loop holds at once.

    Raises:
        TrainingError: the stage cannot be run on this base, on this device or in this memory.
    """
    with quiet():
        ready = set_up(stage, shared)
        model: Any = ready.model
        trained = sum(each.numel() for each in trained_parameters(model).values())
        memory.check(
            # The check of set_up counts one gradient.
            trained * (gradients * memory.FLOAT + round(memory.averages(stage.optimiser))),
            memory.free_bytes(ready.device),
            f"{gradients} gradients of {trained:,} parameters, with what the optimiser keeps,",
            "Train a LoRA adapter, which has fewer parameters, or take another method.",
        )
        if stage.checkpointing:
            model.gradient_checkpointing_enable()
        optimiser, schedule = optimiser_and_schedule(stage, model, ready.order, ready.device)
    bf16 = memory.in_bfloat16(stage, ready.device)
    return Proxy(model.train(), optimiser, schedule, data, stage.clip, bf16)


def device_of(stage: Stage) -> tuple[str, bool]:
    """Returns the device of a stage in torch's notation, and whether it computes in bfloat16."""
    device = choose_device(stage)
    return device, memory.in_bfloat16(stage, device)
