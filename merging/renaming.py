"""Finds how the tensor names of two folders of one model differ, from names and shapes alone.

transformers writes one model under several names: a bare model lacks the prefix of the model with
a head (`h.0` and `transformer.h.0`), versions order leading components differently
(`language_model.model` and `model.language_model`), and old files spell parameters differently
(`LayerNorm.gamma`). Its loader accepts them all, so such files fit each other.

There is no table of architectures. A *rule* replaces one leading part of names by another. Rules
are read off the names themselves: two names that end alike differ in their leading parts. One rule
must hold for a whole group of tensors, and of two rules that fit equally well neither is applied.
Where names differ inside, transformers is asked how it would rename them.

Worked example:

    theirs: visual.norm.weight, model.layers.0.up.weight, model.layers.1.up.weight
    ours:   model.visual.norm.weight, model.language_model.layers.0.up.weight, and layers.1
    rules:  visual → model.visual, model → model.language_model
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from merging.spelling import spellings

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape."""
Fits = Callable[[str, str], bool]
"""Whether a tensor of theirs and one of ours, given by name, can be the same by their shapes."""

MOST_RULES = 64
"""The most rules that are tried, those first that the most tensors suggest."""


class Renaming(NamedTuple):
    """Names of one folder as names of another."""

    names: dict[str, str]
    """Their name -> ours, only for names that differ."""
    text: str
    """What was done, for messages: "prefix 'transformer.' removed (tensors: 148)"."""


class TwoRenamings(NamedTuple):
    """Two renamings that fit equally well, so that neither can be chosen."""

    first: str
    second: str


class _Rule(NamedTuple):
    """Replaces the leading components `old` of a name by `new`."""

    old: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def shared(self) -> int:
        """How many components both parts have, in any order."""
        return sum((Counter(self.old) & Counter(self.new)).values())


class _Found(NamedTuple):
    """The pairs of names that rules give, or the two rules between which none can be chosen."""

    pairs: list[tuple[_Rule, dict[str, str]]]
    """Rule -> the names that it pairs, theirs -> ours."""
    tie: tuple[_Rule, _Rule] | None = None

    @property
    def paired(self) -> int:
        """The number of pairs."""
        return sum(len(names) for _, names in self.pairs)


def find_renaming(
    theirs: Iterable[str],
    ours: Iterable[str],
    fits: Fits,
    *,
    config: Mapping[str, Any],
    whole: bool = True,
) -> Renaming | TwoRenamings | None:
    """Returns how names must be changed so that they become ours.

    Only names that occur on one side are looked at. Constants such as position ids should not be
    among them, because some files have them and others do not.

    Args:
        theirs: the names of the other file.
        ours: the base's names.
        fits: compares the shapes of two tensors.
        config: the base's config.json, which names its architecture for transformers.
        whole: whether both hold a whole model. If not, theirs are a part of ours.

    Returns:
        the renaming, which may leave names on both sides without a partner; two renamings if more
        than one fits; None if nothing can be renamed.
    """
    their_set, our_set = set(theirs), set(ours)
    left, free = sorted(their_set - our_set), sorted(our_set - their_set)
    if not left or not free:
        return None
    best: tuple[_Found, str] | None = None
    for spelling, note in spellings(config):
        spelled = {spelling(name): name for name in left}
        own = {spelling(name): name for name in free}
        if len(spelled) < len(left) or len(own) < len(free):
            continue  # two tensors would get one name
        found = _search(spelled, own, fits)
        # Names are compared as they are first. Another spelling must explain more.
        if best is None or (not found.tie, found.paired) > (not best[0].tie, best[0].paired):
            best = found, note
        if found.tie is None and found.paired == (
            min(len(left), len(free)) if whole else len(left)
        ):
            break
    if best is None or not (best[0].pairs or best[0].tie):
        return None
    if best[0].tie:
        first, second = best[0].tie
        return TwoRenamings(_words(first), _words(second))
    names = {a: b for _, pairs in best[0].pairs for a, b in pairs.items()}
    return Renaming(names, "; ".join(_sentences(best[0].pairs, best[1])))


def _search(theirs: Mapping[str, str], ours: Mapping[str, str], fits: Fits) -> _Found:
    """Chooses rules one after the other, the one that pairs the most tensors first.

    Args:
        theirs: spelled name -> name in the file.
        ours: spelled name -> the base's name.
        fits: compares two tensors, by their names as they are stored.
    """
    rules = _suggested(list(theirs), list(ours))
    left = {name: tuple(name.split(".")) for name in theirs}
    free = set(ours)
    chosen: list[tuple[_Rule, dict[str, str]]] = []
    # A group of tensors, such as model.layers, goes to one place as a whole: layers that were
    # divided between an encoder and a decoder would be a guess.
    group_of: dict[tuple[str, ...], tuple[str, ...]] = {}
    while left and free:
        ranked = []
        for rule in rules:
            pairs = {}
            for name, parts in left.items():
                size = len(rule.old)
                new = ".".join((*rule.new, *parts[size:]))
                group = group_of.get(parts[: size + 1], rule.new)
                if parts[:size] == rule.old and new in free and group == rule.new:
                    pairs[name] = new
            if pairs:
                fitting = sum(fits(theirs[name], ours[new]) for name, new in pairs.items())
                ranked.append(((fitting, len(pairs), rule.shared), rule, pairs))
        if not ranked:
            break
        rank, rule, pairs = max(ranked, key=lambda entry: entry[0])
        for other_rank, other, other_pairs in ranked:
            if other_rank == rank and _disagree(pairs, other_pairs):
                return _Found(chosen, (rule, other))
        chosen.append((rule, {theirs[name]: ours[new] for name, new in pairs.items()}))
        for name in pairs:
            group_of[left.pop(name)[: len(rule.old) + 1]] = rule.new
        free -= set(pairs.values())
    return _Found(chosen)


def _disagree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Returns whether two sets of pairs give one name two partners."""
    taken = set(one.values())
    return any(other.get(name, new) != new for name, new in one.items()) or any(
        one.get(name) != new for name, new in other.items() if new in taken
    )


def _suggested(theirs: list[str], ours: list[str]) -> list[_Rule]:
    """Returns the rules that the names suggest, those of the most tensors first.

    A tensor suggests the rules that keep as much of the end of its name as possible, at least its
    module and parameter. A rule may not change the number of a layer.
    """
    known = set(theirs)
    leading: dict[str, list[tuple[str, ...]]] = {}
    for name in ours:
        parts = name.split(".")
        numbered = 0
        for at in range(len(parts)):
            end = ".".join(parts[at:])
            # Beneath a number only whole names count, as of an encoder with the prefix `0.model`.
            if not numbered or end in known:
                leading.setdefault(end, []).append(tuple(parts[:at]))
            numbered += parts[at].isdecimal()
    votes: Counter[_Rule] = Counter()
    own = set(ours)
    for name in theirs:
        parts = name.split(".")
        numbered = 0
        for at in range(len(parts)):
            end = ".".join(parts[at:])
            places = leading.get(end, []) if not numbered else [()] if end in own else []
            if len(parts) - at == 1:
                # A parameter's own name, such as `weight`, says nothing, unless it is a whole name.
                places = [place for place in places if not at or not place]
            votes.update(_Rule(tuple(parts[:at]), place) for place in places)
            if places:
                break
            numbered += parts[at].isdecimal()
    return [rule for rule, _ in votes.most_common(MOST_RULES)]


def _sentences(pairs: Sequence[tuple[_Rule, Mapping[str, str]]], note: str) -> Iterator[str]:
    """Yields one sentence for each rule, and one for names that are spelled differently."""
    inside: list[tuple[str, str]] = []
    for rule, names in pairs:
        plain = {
            name: new
            for name, new in names.items()
            if new == ".".join((*rule.new, *name.split(".")[len(rule.old) :]))
        }
        inside += [pair for pair in names.items() if pair[0] not in plain]
        if (rule.old or rule.new) and names:
            yield f"{_words(_narrowed(rule, names))} (tensors: {len(names)})"
    if inside:
        old, new = inside[0]
        yield f"names respelled{note}: {len(inside)}, such as {old} → {new}"


def _narrowed(rule: _Rule, names: Iterable[str]) -> _Rule:
    """Returns the rule with the next component if all its tensors share it, which says more."""
    following = {tuple(name.split("."))[: len(rule.old) + 1] for name in names}
    if rule.old or len(following) > 1:
        return rule
    (component,) = following.pop()
    return _Rule((component,), (*rule.new, component))


def _words(rule: _Rule) -> str:
    old, new = ".".join(rule.old), ".".join(rule.new)
    if not old or not new:
        return f"prefix '{old or new}.' {'removed' if old else 'added'}"
    return f"{old} → {new}"
