"""Proxies of DoReMi and DOGE in a folder: trained once, with the weights of every step in a file.

    OUT/doremi.csv          the weights of the domains after each step
        doremi.proxy.json   what they depend on; written last, so it says that the table is whole

A proxy that was interrupted begins anew; one that is finished is read back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, get_args

from corpus.records import digest
from evaluation.records.meter import measured
from influence.balance.proxy import device_of, open_proxy
from influence.balance.proxy_data import ProxyData, proxy_stage, read_proxy_data
from influence.balance.proxy_loops import Observer, doge_trace, doremi_trace, reference_losses
from influence.balance.weight_trace import WeightTrace, read_trace, trace_csv
from influence.errors import InfluenceError
from plumbing.atomic import write_whole
from plumbing.suggest import listed
from training.plan.carry_out import Moment
from training.plan.finished_steps import settings_that_matter
from training.run import record
from training.run.launch import process_count
from training.run.saved_state import write_json
from training.run.shared import Shared
from workbench.influence_runs.measured_mixture import Mixtures, ProxyRun
from workbench.influence_runs.trained_model import load_trained

if TYPE_CHECKING:
    from corpus import Record
    from evaluation.records.meter import Meter
    from training.plan.carry_out import Made
    from training.plan.plan import Plan
    from training.stage import Stage

ProxyMethod = Literal["doremi", "doge"]
"""The methods that train a proxy."""

NO_MEANING = ("group_by", "replay", "noise")
"""Settings that choose or change the examples of a step, which a proxy draws in its own way."""


def weights_file(out: Path, method: ProxyMethod) -> Path:
    """Returns the table of the weights of a method's proxy in a folder of trainings."""
    return out / f"{method}.csv"


def seal_file(out: Path, method: ProxyMethod) -> Path:
    """Returns the file that says that the proxy of a method is finished, and of what it is."""
    return out / f"{method}.proxy.json"


def has_proxy(method: str) -> TypeGuard[ProxyMethod]:
    """Returns whether a method trains a proxy."""
    return method in get_args(ProxyMethod)


def check_proxy(plan: Plan, method: ProxyMethod) -> None:
    """Refuses a plan whose settings a proxy cannot have, before anything is trained.

    Raises:
        InfluenceError: it has such a setting, or several processes share each step.
    """
    if given := [name for name in NO_MEANING if plan.settings.get(name)]:
        raise InfluenceError(
            f"{method} trains a proxy that draws alike from each domain, and the settings have "
            f"{listed(given)}, which draw or change examples in another way. Leave them out."
        )
    if (processes := process_count()) > 1:
        raise InfluenceError(
            f"{method} trains its proxy in one process, and {processes} were started. "
            "Start dem balance without a launcher."
        )


def run_proxy(method: ProxyMethod, mixtures: Mixtures, start: Made) -> ProxyRun:
    """Trains the proxy of a method, or reads the weights of one that is finished.

    Args:
        method: the method.
        mixtures: the domains, the references, and the folder.
        start: the training on the mixture to begin with. Its settings and its number of updates
            are the proxy's, and its model is DoReMi's reference.

    Raises:
        InfluenceError: the folder has a proxy of something else, a domain has no token to learn, or
            the training diverges.
        InfluenceStopped: the watcher asked to stop.
        TrainingError: the proxy does not fit in memory.
    """
    domains, wanted = mixtures.domains, mixtures.wanted
    stage = proxy_stage(start.ready.stage, domains, wanted, start.ready.steps)
    facts = _facts(method, mixtures, stage, start)
    table, seal = weights_file(mixtures.out, method), seal_file(mixtures.out, method)
    if seal.exists():
        written = json.loads(seal.read_text("utf-8"))
        _refuse_other(seal, written["of"], facts)
        names = tuple(domains)
        trace = read_trace(table.read_text("utf-8"), names, with_start=method == "doremi")
        return ProxyRun(trace, table, written["tokens"], written["reference tokens"])
    shared = Shared()
    data = read_proxy_data(stage, domains, shared)
    if method == "doremi":
        trace, tokens, reference_tokens = _doremi(mixtures, start, stage, data, shared)
    else:
        trace, tokens, reference_tokens = _doge(mixtures, stage, data, shared)
    write_whole(table, trace_csv(trace))
    write_json(seal, {"of": facts, "tokens": tokens, "reference tokens": reference_tokens})
    return ProxyRun(trace, table, tokens, reference_tokens)


def _doremi(
    mixtures: Mixtures, start: Made, stage: Stage, data: ProxyData, shared: Shared
) -> tuple[WeightTrace, int, int]:
    """Returns DoReMi's weights, the tokens of the proxy, and those of the reference."""
    device, bf16 = device_of(stage)
    name = "reference losses of doremi"
    with measured(mixtures.ledger, "influence", name, device=device) as meter:
        loaded = load_trained(Path(mixtures.plan.base), start.folder)
        known = reference_losses(
            loaded.module.to(device), data, _observer("doremi", mixtures, meter), bf16=bf16
        )
        seen = meter.tokens or 0
        # Gone before the proxy is read, so that there are never two models in memory.
        del loaded
    with measured(mixtures.ledger, "training", "proxy of doremi", device=device) as meter:
        proxy = open_proxy(stage, data, shared, gradients=gradient_count("doremi", data))
        trace = doremi_trace(proxy, known, _observer("doremi", mixtures, meter))
    return trace, meter.tokens or 0, seen


def _doge(
    mixtures: Mixtures, stage: Stage, data: ProxyData, shared: Shared
) -> tuple[WeightTrace, int, int]:
    """Returns DOGE's weights, the tokens of the proxy, and 0, because it needs no reference."""
    device, _ = device_of(stage)
    targets_are_own = own_targets(mixtures.domains, mixtures.wanted)
    with measured(mixtures.ledger, "training", "proxy of doge", device=device) as meter:
        proxy = open_proxy(stage, data, shared, gradients=gradient_count("doge", data))
        observer = _observer("doge", mixtures, meter)
        trace = doge_trace(proxy, observer, own_targets=targets_are_own)
    return trace, meter.tokens or 0, 0


def own_targets(
    domains: Mapping[str, Sequence[Record]], wanted: Mapping[str, Sequence[Record]]
) -> bool:
    """Returns whether the references are the domains themselves, whatever they are called."""
    own, aims = (sorted(digest(records) for records in each.values()) for each in (domains, wanted))
    return own == aims


def gradient_count(method: ProxyMethod, data: ProxyData) -> int:
    """Returns how many gradients the proxy of a method holds at once."""
    return 1 if method == "doremi" else len(data.domains) + 1


def _observer(method: ProxyMethod, mixtures: Mixtures, meter: Meter) -> Observer:
    """Returns what shows the steps to the watcher, and counts for the ledger."""

    def progress(done: int, steps: int, loss: float) -> None:
        now = Moment(f"proxy of {method}", 1, 1, done, steps, loss, done / steps)
        mixtures.watcher.on_moment(now)

    return Observer(progress, meter.count, mixtures.watcher.should_stop)


def _facts(method: ProxyMethod, mixtures: Mixtures, stage: Stage, start: Made) -> dict[str, Any]:
    """Returns everything that the weights depend on, as JSON values."""
    facts = settings_that_matter(record.settings(stage), {}, 1) | record.digests(stage)
    facts |= {"base": record.identity(stage.base), "domains": mixtures.sizes}
    if method == "doremi":
        facts["reference"] = record.identity(start.folder)
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def _refuse_other(seal: Path, written: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses the weights of another proxy, and names the difference.

    Raises:
        InfluenceError: something differs.
    """
    names = sorted(written.keys() | wanted.keys())
    if different := [name for name in names if written.get(name) != wanted.get(name)]:
        raise InfluenceError(
            f"{seal} is of a proxy with another {listed(different)} than the plan has now. Give a "
            "new folder, or remove this file to train the proxy anew."
        )
