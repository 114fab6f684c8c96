"""The loops that train a proxy and move the weights of its domains: DoReMi's and DOGE's.

Both take one update of the proxy for each step of the weights:

    DoReMi   θ by Σ α_i ∇ℓ_i, then α by the excess losses of the same forward pass
    DOGE     α by the products of the gradients g_i and h_j, then θ by Σ α_i g_i

with ℓ_i the mean loss of the supervised tokens that the step draws of domain i. DoReMi's paper
moves α before θ, which needs all losses of a step before the first gradient; its released code does
so for the last of several accumulated batches. Here α acts from the next step on, so that each
batch is differentiated as soon as it is computed, and one gradient is held. DOGE holds the gradient
of each domain and of one target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.prepared import batched
from influence.balance.doge import Doge, doge_scores
from influence.balance.doremi import DoReMi, excess_losses
from influence.balance.proxy import Proxy, batch_losses
from influence.balance.proxy_data import Drawn, ProxyData
from influence.balance.weight_trace import WeightTrace
from influence.errors import InfluenceError, InfluenceStopped
from influence.gradients.examples import numbers

TokenLosses = Mapping[str, Mapping[int, Tensor]]
"""Domain -> number of an example -> losses of its supervised tokens in nats, on the CPU."""


@dataclass(frozen=True)
class Observer:
    """The caller's functions that observe a proxy and can stop it.

    Attributes:
        progress: called after each step with the steps done, the steps in all, and the loss.
        count: called with examples, tokens and supervised tokens as they are computed.
        should_stop: asked before each step, or each batch of the reference.
    """

    progress: Callable[[int, int, float], None] = lambda done, steps, loss: None
    count: Callable[[int, int, int], None] = lambda examples, tokens, supervised: None
    should_stop: Callable[[], bool] = lambda: False

    def ask(self, what: str) -> None:
        """Raises InfluenceStopped if the caller asks to stop."""
        if self.should_stop():
            raise InfluenceStopped(f"stopped in {what}, which begins anew; what was done is kept")

    def drawn(self, drawn: Drawn) -> None:
        """Counts the examples that a step has drawn."""
        self.count(len(drawn.numbers), drawn.tokens, drawn.supervised)


@torch.no_grad()
def reference_losses(
    module: nn.Module, data: ProxyData, observer: Observer, *, bf16: bool = False
) -> TokenLosses:
    """Returns the losses of a reference model on all that a proxy will draw: 4 bytes for a token.

    So the reference and the proxy need not be in memory together.

    Args:
        module: the reference model, in evaluation mode.
        data: of the proxy.
        observer: counts, and can stop.
        bf16: whether to compute in bfloat16, as the proxy does.

    Raises:
        InfluenceStopped: the observer asked to stop.
    """
    found: dict[str, dict[int, Tensor]] = {}
    for name, rows in data.domains.items():
        wanted = data.drawn(name)
        found[name] = {}
        for batch in batched([rows[number] for number in wanted], data.positions):
            observer.ask("the losses of the reference")
            losses = batch_losses(module, batch, bf16).cpu()
            lengths = torch.bincount(batch.rows, minlength=len(batch.ids)).tolist()
            for place, part in zip(
                numbers(batch).tolist(), torch.split(losses, lengths), strict=True
            ):
                row = rows[wanted[place]]
                found[name][wanted[place]] = part.clone()
                observer.count(1, len(row.ids), len(part))
    return found


def doremi_trace(
    proxy: Proxy, reference: TokenLosses, observer: Observer, rule: DoReMi | None = None
) -> WeightTrace:
    """Trains a proxy on the weighted losses of its domains, and moves them by DoReMi's rule.

    Args:
        proxy: the proxy, which is trained.
        reference: the losses of the reference model.
        observer: follows the steps, and can stop.
        rule: the weights to start from; equal ones if None (arXiv 2305.10429, algorithm 1).

    Raises:
        InfluenceError: the loss is infinite or not a number.
        InfluenceStopped: the observer asked to stop.
    """
    names = tuple(proxy.data.domains)
    rule = rule or DoReMi([1.0] * len(names))
    rows = [rule.weights]
    draws = {name: proxy.data.draws(name) for name in names}
    for step in range(proxy.data.steps):
        observer.ask(f"step {step + 1} of the proxy of DoReMi")
        own, other, owners, loss = [], [], [], 0.0
        for place, name in enumerate(names):
            drawn = next(draws[name])
            losses = torch.cat(proxy.backward(drawn, rule.weights[place])).double().cpu()
            own.append(losses.numpy())
            other.append(
                np.concatenate(
                    [
                        reference[name][drawn.numbers[at]].double().numpy()
                        for batch in drawn.batches
                        for at in numbers(batch).tolist()
                    ]
                )
            )
            owners.append(np.full(len(losses), place))
            loss += rule.weights[place] * float(losses.mean())
            observer.drawn(drawn)
        _check(loss, step)
        proxy.clip_gradient()
        proxy.update()
        proxy_side, reference_side = np.concatenate(own), np.concatenate(other)
        excess = excess_losses(proxy_side, reference_side, np.concatenate(owners), len(names))
        rows.append(rule.update(excess))
        observer.progress(step + 1, proxy.data.steps, loss)
    return WeightTrace(names, np.array(rows), with_start=True)


def doge_trace(
    proxy: Proxy, observer: Observer, *, own_targets: bool, rule: Doge | None = None
) -> WeightTrace:
    """Trains a proxy on the weighted gradients of its domains, and moves them by DOGE's rule.

    Args:
        proxy: the proxy, which is trained.
        observer: follows the steps, and can stop.
        own_targets: whether the targets are the training domains. Then the gradients of the domains
            are those of the targets too, and a domain's product with itself does not count.
        rule: the weights to start from; equal ones if None.

    Raises:
        InfluenceError: the loss is infinite or not a number.
        InfluenceStopped: the observer asked to stop.
    """
    names = tuple(proxy.data.domains)
    rule = rule or Doge(len(names))
    rows, parameters = [rule.weights], proxy.parameters
    draws = [proxy.data.draws(name) for name in names]
    wanted = [] if own_targets else [*proxy.data.targets]
    aims = [proxy.data.draws(name, target=True) for name in wanted]
    for step in range(proxy.data.steps):
        observer.ask(f"step {step + 1} of the proxy of DOGE")
        pairs = [_gradient(proxy, next(each), observer) for each in draws]
        gradients = [gradient for gradient, _ in pairs]
        columns = (
            [[_product(each, other) for each in gradients] for other in gradients]
            if own_targets
            # One target's gradient after the other, so that only one is held.
            else [
                [_product(each, aim) for each in gradients]
                for aim in (_gradient(proxy, next(draw), observer)[0] for draw in aims)
            ]
        )
        norms = [math.sqrt(_product(each, each)) for each in gradients]
        scores = doge_scores(np.array(columns).T, norms, proxy.rate, own_targets=own_targets)
        rows.append(rule.update(scores))
        loss = float(rows[-1] @ np.array([mean for _, mean in pairs]))
        _check(loss, step)
        for parameter, *parts in zip(parameters, *gradients, strict=True):
            # No longer than the longest of them, so it needs no clipping.
            parameter.grad = sum(
                (part * weight for part, weight in zip(parts, rows[-1].tolist(), strict=True)),
                start=torch.zeros_like(parameter),
            )
        proxy.update()
        observer.progress(step + 1, proxy.data.steps, loss)
    return WeightTrace(names, np.array(rows), with_start=False)


def _gradient(proxy: Proxy, drawn: Drawn, observer: Observer) -> tuple[list[Tensor], float]:
    """Returns the clipped gradient of the mean loss of some examples, and that loss."""
    losses = torch.cat(proxy.backward(drawn))
    observer.drawn(drawn)
    proxy.clip_gradient()
    gradient = []
    for parameter in proxy.parameters:
        # None for a parameter that the examples do not reach, such as an expert.
        gradient.append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        parameter.grad = None
    return gradient, float(losses.mean())


def _product(one: list[Tensor], other: list[Tensor]) -> float:
    """Returns the inner product of two gradients, summed over the parameters in float64."""
    return math.fsum(float(a.flatten() @ b.flatten()) for a, b in zip(one, other, strict=True))


def _check(loss: float, step: int) -> None:
    """Refuses to go on from a loss that is no finite number.

    Raises:
        InfluenceError: it is not.
    """
    if not math.isfinite(loss):
        raise InfluenceError(
            f"the loss of the proxy is {loss} at step {step + 1}: its training diverged. Give a "
            "lower rate, or a longer warm-up, in the settings of the plan."
        )
