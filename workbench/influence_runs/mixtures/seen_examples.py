"""How many examples of each dataset a training has seen: the bridge from ω to proportions of data.

E_j, what the expert of dataset j has seen, and M_j, what a training on a mixture sees of it, are in
examples, each pass over an example counted. Replayed examples, which guard against forgetting, are
the same in both and count in neither.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from corpus.selection import SUFFIX, load, read_selection
from plumbing.suggest import nearest
from training.plan.estimate import estimate
from training.run import record
from workbench.errors import SessionError

if TYPE_CHECKING:
    from merging import Recipe
    from training.plan.forecast import StepForecast
    from training.plan.plan import Plan


class Seen(NamedTuple):
    """What one expert has seen of its dataset."""

    examples: float
    how: str
    """Where the number is from, in words."""


class PlanEnd(NamedTuple):
    """A step of a plan that no other step follows, and what training up to it sees."""

    label: str
    step: str
    """Its name, which is the name of its folder."""
    amounts: Mapping[str, float]
    """Dataset -> examples of it that the step and those before it see."""
    examples: int
    """Number of examples of these steps' mixtures, each pass counted once."""


def expert_examples(
    recipe: Recipe, plans: Sequence[Plan], stated: Mapping[str, float], needed: Collection[str]
) -> dict[str, Seen]:
    """Returns what experts of a recipe have seen of their datasets, where that is known.

    That is the number that was stated; else what the training.json beside its weights records; else
    the size of a plan's source of its name, as after one pass. The ratios decide the shares, so
    one pass of each is right if all experts made as many.

    Args:
        recipe: its vectors.
        plans: have a source for each vector without a record; the first that has it counts.
        stated: vector -> number of examples.
        needed: vectors of which it must be known.

    Raises:
        SessionError: a stated name is no vector or its number is not above 0, a training.json
            cannot be read, or a needed vector has neither a record nor a source.
        CorpusError: a source cannot be read.
    """
    names = [source.name for source in recipe.models]
    for name, number in stated.items():
        if name not in names:
            raise SessionError(
                f"--seen names {name}, which is no vector of the recipe; {nearest(name, names)}"
            )
        if not 0 < number < math.inf:
            raise SessionError(f"--seen {name}={number:g}: expected a number of examples above 0.")
    seen = {}
    for source in recipe.models:
        name, file = source.name, Path(source.location) / record.NAME
        plan = next((plan for plan in plans if name in plan.sources), None)
        if name in stated:
            seen[name] = Seen(stated[name], "--seen")
        elif file.is_file():
            seen[name] = Seen(_recorded(file), record.NAME)
        elif plan is not None:
            size = len(load(plan.sources[name], reach=plan.reach))
            seen[name] = Seen(size, "one pass over the plan's source")
        elif name in needed:
            raise SessionError(
                f"how many examples the expert {name} has seen is not known: {file} does not "
                f"exist, and the plan has no source {name}. Give --seen {name}=N, or add the "
                "source."
            )
    return seen


def _recorded(file: Path) -> float:
    """Returns the examples of its own data that a recorded training has seen.

    Raises:
        SessionError: the file is no record of a training.
    """
    try:
        document = json.loads(file.read_text("utf-8"))
        settings = record.with_defaults(document["settings"])
        own = _own_share(int(settings["batch"]), float(settings["replay_share"]))
        return float(document["spent"]["examples"]) * own
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SessionError(
            f"{file} is no record of a training ({error!r}). Give --seen NAME=N for this expert."
        ) from None


def _own_share(batch: int, replay_share: float) -> float:
    """Returns the share of each batch that is not replayed; training rounds in the same way."""
    return 1 - round(batch * replay_share) / batch


def plan_ends(plan: Plan) -> list[PlanEnd]:
    """Returns what each path through a plan sees of each dataset; nothing is trained.

    A source that is a selection, such as dem influence select writes, counts for the datasets that
    its records are from.

    Args:
        plan: any plan; each of its steps that nothing follows is an end.

    Raises:
        PlanError: the plan has faults, or its data cannot be read.
    """
    steps = {ready.name: ready for ready in estimate(plan)}
    parents = {ready.step.parent for ready in steps.values()}
    ends = []
    for name, ready in steps.items():
        if name in parents:
            continue
        amounts = defaultdict[str, float](float)
        examples = 0
        at: StepForecast | None = ready
        while at is not None:
            for dataset, count in _amounts(at, plan).items():
                amounts[dataset] += count
            examples += sum(at.taken.values())
            at = steps[at.step.parent] if at.step.parent else None
        ends.append(PlanEnd(ready.step.label, name, dict(amounts), examples))
    return ends


def _amounts(ready: StepForecast, plan: Plan) -> dict[str, float]:
    """Returns how many examples of each dataset the updates of one step see."""
    stage = ready.stage
    seen = ready.examples * _own_share(stage.batch, stage.replay_share)
    amounts = defaultdict[str, float](float)
    for name, taken in ready.taken.items():
        path = Path(plan.sources[name].path).expanduser()
        own = seen * taken / sum(ready.taken.values())
        if path.name.endswith(SUFFIX):
            chosen = Counter(each.source for each in read_selection(path, reach=plan.reach).chosen)
            for dataset, count in chosen.items():
                amounts[dataset] += own * count / chosen.total()
        else:
            amounts[name] += own
    return dict(amounts)
