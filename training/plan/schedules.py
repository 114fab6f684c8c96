"""Schedules: the published orders of training on several sources, as lists of steps. Values only; nothing is read or trained.

A step trains on a share of some sources and starts from the base or from another step. Its name says all of that, so
two schedules that begin alike hold the same step, and it is trained once.

Strategies and research questions: Dong et al., "How abilities in large language models are affected by supervised
fine-tuning data composition" (ACL 2024, arXiv 2310.05492), sections 2 and 3.
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
"""Characters of a step's name; a longer one is cut and ends in a digest. A folder's name may have 255 bytes."""


@dataclass(frozen=True)
class Step:
    """One stage of training in a schedule.

    Attributes:
        name: its folder; says what it was trained on, in order: "code.math--general.code-1of256.math-1of256".
        shares: source -> how much of it, sorted by name; 1 is all of its examples, 2 is each of them twice.
        parent: name of the step whose weights it starts from, with a fresh optimiser; None for the base.
        label: what it is, for people: "DMT, k = 1/256".
        parts: the shares are parts of the mixture instead of parts of each source.
        examples: with `parts`, how many examples the mixture has; None for as many as need no repetition.
        settings: what differs from the plan's settings.
    """

    name: str
    shares: Shares
    parent: str | None = None
    label: str = ""
    parts: bool = False
    examples: int | None = None
    settings: Settings = field(default_factory=dict)


def step(shares: Shares, parent: Step | None = None, label: str = "", **more: Any) -> Step:
    """A step with the name that its data and its parent give it; a share of 0 is left out.

    >>> step({"math": Fraction(1, 4), "code": Fraction(1)}, label="both").name
    'code.math-1of4'
    """
    kept = {source: shares[source] for source in sorted(shares) if shares[source]}
    data = ".".join(source + _share_in_name(share) for source, share in kept.items())
    if more.get("parts"):
        data = f"mix.{data}" + (f".of-{more['examples']}" if more.get("examples") else "")
    name = f"{parent.name}--{data}" if parent else data
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Step(name, kept, parent.name if parent else None, label or name, **more)


def experts(sources: Iterable[str], each: Mapping[str, Settings] | None = None) -> list[Step]:
    """One checkpoint per source, each from the base: what DEM composes. `each` holds settings per source."""
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
    """Multi-task learning: all sources at once, in one step. `parts` and `examples`: see Step."""
    return [step(shares, label="mixed", parts=parts, examples=examples, settings=settings or {})]


def sequential(order: Sequence[str], each: Mapping[str, Settings] | None = None) -> list[Step]:
    """One source after the other. The paper's order is code, math, general."""
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
    """The special sources together, then the general ones. `each` may hold settings for "special" and "general"."""
    return dmt(special, general, [Fraction(0)], each)


def dmt(
    special: Iterable[str],
    general: Iterable[str],
    ks: Iterable[Fraction],
    each: Mapping[str, Settings] | None = None,
) -> list[Step]:
    """Dual-stage mixed fine-tuning: the special sources together, then the general ones with a share k of the special.

    Several k share the first stage. k = 0 is mixed sequential. `each`: as in mixed_sequential.
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
    """A study over proportions k, every step from the base.

    RQ1 is `single`: each source alone at each k. RQ2: all sources together at the same k. RQ3: `hold` some sources at a
    fixed share and vary the others: general at 1 with k of the special; special at 1 with k of the general; general at
    1/64 with k of the special. `settings` are for every step; with `single`, `each` may hold others per source.
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
    """The steps of several schedules, each once, parents first.

    Raises:
        TrainingError: two steps have one name and differ in more than their label.
    """
    found: dict[str, Step] = {}
    for new in (new for steps in schedules for new in steps):
        there = found.setdefault(new.name, new)
        if replace(there, label=new.label) != new:
            raise TrainingError(
                f'two steps are called "{new.name}" ({there.label}; {new.label}) and differ in their data or settings: '
                f"{dict(there.settings)} and {dict(new.settings)}. Give them the same settings, or two plans with two folders."
            )
    return list(found.values())


def counts(step: Step, sizes: Mapping[str, int]) -> dict[str, int]:
    """How many examples a step takes of each source: floor(size · share), or floor(total · part) for a mixture in parts.

    Args:
        step: any step.
        sizes: source -> examples that it has.

    Raises:
        TrainingError: a share above 0 comes to no example.

    >>> counts(step({"code": Fraction(1, 256)}), {"code": 20_022})
    {'code': 78}
    """
    if step.parts:
        whole = sum(step.shares.values(), Fraction(0))
        parts = {name: share / whole for name, share in step.shares.items()}
        total = step.examples or min(sizes[name] / part for name, part in parts.items())
        taken = {name: math.floor(total * part) for name, part in parts.items()}
    else:
        taken = {name: math.floor(sizes[name] * share) for name, share in step.shares.items()}
    for name, count in taken.items():
        if count == 0:
            raise TrainingError(
                f'{step.label}: {step.shares[name]} of "{name}", which has {sizes[name]:,} examples, is none. '
                f"Give a larger share, or leave the source out."
            )
    return taken


def identity(parent: str, data: Mapping[str, str], settings: Settings) -> str:
    """What a step's weights follow from, as one SHA-256: where it starts, its data, its settings.

    Args:
        parent: identity of the step or of the base that it starts from.
        data: digest of each part of the data: examples, replay, groups.
        settings: every setting that moves the weights, as JSON can hold it.
    """
    facts = {"parent": parent, "data": dict(data), "settings": dict(settings)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _whole(sources: Iterable[str], parent: Step | None = None, **more: Any) -> Step:
    return step(dict.fromkeys(sources, Fraction(1)), parent, **more)


def _share_in_name(share: Fraction) -> str:
    return "" if share == 1 else f"-{share.numerator}of{share.denominator}"
