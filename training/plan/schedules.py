"""Schedules: the published orders of training on several sources, as lists of steps.

A step trains on a share of some sources and starts from the base or from another step. Its name
says all of that. So two schedules that begin in the same way contain the same step, and it is
trained once. This module makes values only; it reads no data and trains nothing.

The strategies and research questions are from Dong et al., "How abilities in large language models
are affected by supervised fine-tuning data composition" (ACL 2024, arXiv 2310.05492), sections 2
and 3.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from training.errors import TrainingError

Shares = Mapping[str, Fraction]
Settings = Mapping[str, Any]

LONGEST = 100
"""Largest number of characters of a step's name; a longer one is cut and ends in a digest.

The name of a folder may have 255 bytes, and a step's folder has siblings with longer names.
"""


@dataclass(frozen=True)
class Step:
    """One stage of training in a schedule.

    Attributes:
        name: name of its folder. It lists the data of this step and of its parents, in order:
            "code.math--general.code-1of256.math-1of256".
        shares: source -> its share, sorted by name. 1 is all of its examples, 2 is each twice.
        parent: name of the step whose weights it starts from, with a new optimiser; None for the
            base.
        label: a description for people: "DMT, k = 1/256".
        parts: whether the shares are fractions of the mixture instead of fractions of each source.
        examples: with `parts`, the number of examples of the mixture. If None, the mixture is as
            large as possible without repeating an example.
        settings: the settings that differ from the plan's.
    """

    name: str
    shares: Shares
    parent: str | None = None
    label: str = ""
    parts: bool = False
    examples: int | None = None
    settings: Settings = field(default_factory=dict)


def step(shares: Shares, parent: Step | None = None, label: str = "", **more: Any) -> Step:
    """Makes a step and its name from its data and its parent; a share of 0 is left out.

    Args:
        shares: source -> its share.
        parent: the step that it starts from; None for the base.
        label: a description for people; the name if empty.
        more: other fields of Step.

    >>> step({"math": Fraction(1, 4), "code": Fraction(1)}, label="both").name
    'code.math-1of4'
    """
    # Sorted, so that the name does not depend on the order in which a plan lists its sources.
    kept = {source: shares[source] for source in sorted(shares) if shares[source]}
    data = ".".join(source + _share_in_name(share) for source, share in kept.items())
    if more.get("parts"):
        data = f"mix.{data}" + (f".of-{more['examples']}" if more.get("examples") else "")
    name = f"{parent.name}--{data}" if parent else data
    if len(name) > LONGEST:
        # 9 characters for the dash and the digest. It is of the whole name, so cut names stay
        # different.
        name = f"{name[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Step(name, kept, parent.name if parent else None, label or name, **more)


def experts(sources: Iterable[str], each: Mapping[str, Settings] | None = None) -> list[Step]:
    """Returns one step per source, each from the base: the checkpoints that DEM composes.

    Args:
        sources: names of the sources.
        each: source -> settings of its step.
    """
    return [
        _whole([name], label=f"expert {name}", settings=(each or {}).get(name, {}))
        for name in sources
    ]


def mixing(
    shares: Shares,
    *,
    parts: bool = False,
    examples: int | None = None,
    settings: Settings | None = None,
) -> list[Step]:
    """Returns one step on all sources at once (multi-task learning); for the arguments see Step."""
    return [step(shares, label="mixed", parts=parts, examples=examples, settings=settings or {})]


def sequential(order: Sequence[str], each: Mapping[str, Settings] | None = None) -> list[Step]:
    """Returns steps that train on one source after the other.

    Args:
        order: names of the sources. The paper's order is code, math, general.
        each: source -> settings of its step.
    """
    steps: list[Step] = []
    for number, name in enumerate(order, start=1):
        label = f"sequential, {number} of {len(order)}: {name}"
        steps.append(
            _whole(
                [name],
                steps[-1] if steps else None,
                label=label,
                settings=(each or {}).get(name, {}),
            )
        )
    return steps


def mixed_sequential(
    special: Iterable[str], general: Iterable[str], each: Mapping[str, Settings] | None = None
) -> list[Step]:
    """Returns a step on all special sources, then a step on all general ones.

    Args:
        special: names of the sources of the first stage.
        general: names of the sources of the second stage.
        each: "special" or "general" -> settings of that stage.
    """
    # As DMT with k = 0, so that both are one step by name, which is trained once.
    return dmt(special, general, [Fraction(0)], each)


def dmt(
    special: Iterable[str],
    general: Iterable[str],
    ks: Iterable[Fraction],
    each: Mapping[str, Settings] | None = None,
) -> list[Step]:
    """Returns dual-stage mixed fine-tuning (DMT).

    The first stage trains on all special sources, the second on the general ones and a share k of
    the special ones. Several k share the first stage. k = 0 is mixed sequential training.

    Args:
        special: names of the sources of the first stage.
        general: names of the sources of the second stage.
        ks: the shares k, 0 to 1; each gives one second stage.
        each: "special" or "general" -> settings of that stage.
    """
    each, special, general = each or {}, list(special), list(general)
    first = _whole(
        special, label=f"special: {', '.join(sorted(special))}", settings=each.get("special", {})
    )
    steps = [first]
    for k in ks:
        shares = dict.fromkeys(general, Fraction(1)) | dict.fromkeys(special, k)
        label = f"DMT, k = {k}" if k else "mixed sequential"
        steps.append(step(shares, first, label, settings=each.get("general", {})))
    return steps


def proportions(
    vary: Iterable[str],
    ks: Iterable[Fraction],
    *,
    hold: Shares | None = None,
    single: bool = False,
    settings: Settings | None = None,
    each: Mapping[str, Settings] | None = None,
) -> list[Step]:
    """Returns a study over proportions k, in which every step starts from the base.

    The paper's research questions are these studies:
    RQ1: each source alone at each k (`single`).
    RQ2: all sources together at the same k.
    RQ3: some sources at a fixed share (`hold`), the others at k. The paper holds general at 1,
    special at 1, and general at 1/64.

    Args:
        vary: names of the sources whose share is k.
        ks: the shares k, 0 to 1.
        hold: source -> its fixed share in every step.
        single: whether each source of `vary` gets steps of its own.
        settings: settings of every step.
        each: with `single`, source -> settings that replace `settings` in its steps.
    """
    vary, held = list(vary), dict(hold or {})
    groups = [[name] for name in vary] if single else [vary]
    return [
        step(
            held | dict.fromkeys(group, k),
            label=", ".join(
                f"{share} {name}" for name, share in (held | dict.fromkeys(group, k)).items()
            ),
            settings=(each or {}).get(group[0], settings or {}) if single else settings or {},
        )
        for group in groups
        for k in ks
    ]


def merge_schedules(schedules: Iterable[Iterable[Step]]) -> list[Step]:
    """Returns the steps of several schedules, each once, parents first.

    Raises:
        TrainingError: two steps have the same name and differ in more than their label.
    """
    steps: dict[str, Step] = {}
    for new in (new for schedule in schedules for new in schedule):
        first = steps.setdefault(new.name, new)
        # A label describes the step's place in its schedule and changes nothing in the training.
        if replace(first, label=new.label) != new:
            raise TrainingError(
                f'two steps are called "{new.name}" ({first.label}; {new.label}) and differ in '
                f"their data or settings: {dict(first.settings)} and {dict(new.settings)}. "
                "Give them the same settings, or two plans with two folders."
            )
    return list(steps.values())


def counts(step: Step, sizes: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of examples that a step takes of each source.

    It is floor(size · share), or floor(total · part) if the shares are fractions of the mixture.

    Args:
        step: any step.
        sizes: source -> number of its examples.

    Raises:
        TrainingError: a share above 0 gives no example.

    >>> counts(step({"code": Fraction(1, 256)}), {"code": 20_022})
    {'code': 78}
    """
    if step.parts:
        # Parts need not sum to 1, so that {math: 2, code: 1} is a mixture too.
        whole = sum(step.shares.values(), Fraction(0))
        parts = {name: share / whole for name, share in step.shares.items()}
        total = step.examples or min(sizes[name] / part for name, part in parts.items())
        taken = {name: math.floor(total * part) for name, part in parts.items()}
    else:
        taken = {name: math.floor(sizes[name] * share) for name, share in step.shares.items()}
    for name, count in taken.items():
        if count == 0:
            raise TrainingError(
                f'{step.label}: {step.shares[name]} of "{name}", which has {sizes[name]:,} '
                "examples, is none. Give a larger share, or leave the source out."
            )
    return taken


def identity(parent: str, data: Mapping[str, str], settings: Settings) -> str:
    """Returns a SHA-256 of everything that determines a step's weights.

    Args:
        parent: identity of the step or of the base that it starts from.
        data: "examples", "replay" or "groups" -> digest of that part of the data.
        settings: every setting that changes the weights, as JSON can hold it.
    """
    facts = {"parent": parent, "data": dict(data), "settings": dict(settings)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _whole(sources: Iterable[str], parent: Step | None = None, **more: Any) -> Step:
    return step(dict.fromkeys(sources, Fraction(1)), parent, **more)


def _share_in_name(share: Fraction) -> str:
    return "" if share == 1 else f"-{share.numerator}of{share.denominator}"
