"""What the proxy of DoReMi or DOGE will cost: its tokens counted, and a few of its steps timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evaluation.model import load
from influence.balance.proxy import Proxy, device_of, open_proxy
from influence.balance.proxy_data import ProxyData, proxy_stage, read_proxy_data
from influence.balance.proxy_loops import (
    Observer,
    TokenLosses,
    doge_trace,
    doremi_trace,
    reference_losses,
)
from merging import Checkpoint
from plumbing.units import counted
from training.run.shared import Shared
from workbench.influence_runs.outlooks.data_outlook import PartOutlook, timed
from workbench.influence_runs.proxy_runs import ProxyMethod, gradient_count, own_targets

if TYPE_CHECKING:
    from corpus import Record
    from training.plan.forecast import StepForecast
    from training.stage import Stage

TIMED = 3
"""Steps of the proxy that are timed, after one that warms up."""


def proxy_outlook(
    method: ProxyMethod,
    start: StepForecast,
    domains: Mapping[str, Sequence[Record]],
    wanted: Mapping[str, Sequence[Record]],
    *,
    done: bool,
) -> tuple[PartOutlook, ...]:
    """Returns what `run_proxy` will cost. A model is loaded to time it, unless it is done.

    Args:
        method: whose proxy it is.
        start: the training on the mixture to begin with.
        domains, wanted: name of a domain, or of a reference set -> its records.
        done: whether the proxy is finished.

    Raises:
        InfluenceError, TrainingError: as run_proxy.
    """
    shared = Shared()
    stage = proxy_stage(start.stage, domains, wanted, start.steps)
    data = read_proxy_data(stage, domains, shared)
    if method == "doge" and own_targets(domains, wanted):
        # The gradients of the domains are those of the targets.
        data = data._replace(targets={})
    few = data._replace(steps=min(TIMED, data.steps))
    parts, known = [], None
    if method == "doremi":
        examples, tokens = _read(data)
        seconds = 0.0
        if not done:
            per_token, known = _reference(stage, few)
            seconds = tokens * per_token
        name = "losses of the reference, which is the start"
        parts.append(PartOutlook(name, examples, tokens, seconds, done=done))
    examples, tokens = _trained(method, data)
    seconds = 0.0
    if not done:
        opening, per_token = _proxy(method, stage, few, shared, known)
        seconds = opening + tokens * per_token
    name = f"proxy of {method}, {counted(data.steps, 'step')}"
    return (*parts, PartOutlook(name, examples, tokens, seconds, done=done))


def _read(data: ProxyData) -> tuple[int, int]:
    """Returns the examples and tokens that a reference reads, each example once."""
    rows = [own[number] for name, own in data.domains.items() for number in data.drawn(name)]
    return len(rows), sum(len(row.ids) for row in rows)


def _trained(method: ProxyMethod, data: ProxyData) -> tuple[int, int]:
    """Returns the examples and tokens that the steps of a proxy process."""
    drawn = [each for name in data.domains for each in data.draws(name)]
    if method == "doge":
        drawn += [each for name in data.targets for each in data.draws(name, target=True)]
    return sum(len(each.numbers) for each in drawn), sum(each.tokens for each in drawn)


def _reference(stage: Stage, few: ProxyData) -> tuple[float, TokenLosses]:
    """Returns the seconds per token of a reference, and the base's losses for a few steps."""
    device, bf16 = device_of(stage)
    # The start need not be trained yet, and its base takes as long.
    module = load(stage.base, checkpoint=Checkpoint(stage.base), device=device).module
    reference_losses(module, few._replace(steps=1), Observer(), bf16=bf16)
    found: dict[str, TokenLosses] = {}

    def read() -> None:
        found["few"] = reference_losses(module, few, Observer(), bf16=bf16)

    return timed(read) / _read(few)[1], found["few"]


def _proxy(
    method: ProxyMethod, stage: Stage, few: ProxyData, shared: Shared, known: TokenLosses | None
) -> tuple[float, float]:
    """Returns the seconds to open a proxy, and the seconds per token of its steps."""
    opened: list[Proxy] = []

    def open_it() -> None:
        gradients = gradient_count(method, few)
        opened.append(open_proxy(stage, few, shared, gradients=gradients))

    opening = timed(open_it)
    [proxy] = opened

    def steps(data: ProxyData) -> None:
        now = replace(proxy, data=data)
        if known is None:
            doge_trace(now, Observer(), own_targets=not data.targets)
        else:
            doremi_trace(now, known, Observer())

    steps(few._replace(steps=1))
    return opening, timed(lambda: steps(few)) / _trained(method, few)[1]
