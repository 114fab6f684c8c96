"""Makes the configuration of restacked layers say of each layer what it is, or refuses.

A layer that comes to another number keeps its weights, but config.json may say another kind of
layer there. Three things are tried, in this order: the lists that the model's config.json has; the
lists that transformers derives from it, written out; other values of the numbers that place the
kinds, such as `first_k_dense_replace`. Each is proved on the layers that transformers builds.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from merging.errors import MismatchError
from merging.loaded_config import essential, loaded_config
from merging.opening.layer_kinds import (
    SETTING,
    TENSOR,
    Fact,
    Facts,
    Layers,
    differences,
    layers_of,
    numbers,
    varying,
)
from merging.opening.layer_names import (
    Move,
    StackedModel,
    check_names,
    kinds_by_lists,
    refusal,
    tensor_text,
)
from merging.opening.placement import Fitness, other_placements
from merging.opening.stacked_config import (
    LayerOrigin,
    is_layer_numbers,
    is_per_layer,
    level_of,
    restacked_lists,
    with_level,
)


class _Misfit(NamedTuple):
    """A layer that is of another kind than the output's configuration says."""

    move: Move
    facts: Sequence[Fact]


def fitted_config(
    config: Mapping[str, Any], donor: StackedModel, moves: Sequence[Move]
) -> dict[str, Any]:
    """Returns the output's configuration, changed so that it says of each layer what it is.

    Args:
        config: the output's configuration with the number of layers and the restacked lists that
            the donor's config.json has; see restack_config.
        donor: the model whose config.json is used.
        moves: where each layer of the slices goes; each layer of the output is given by one.

    Raises:
        MismatchError: if a layer would come where the configuration says another kind of layer.
    """
    # Without a config.json nothing says what a layer is.
    if not config:
        return dict(config)
    if _nothing_moves(donor, moves):
        check_names(donor, moves, {})
        return dict(config)
    models = {move.model.name: move.model for move in moves}
    known = {
        name: layers_of(model.config, model.stack, len(model.tensors))
        for name, model in models.items()
    }
    own = layers_of(donor.config, donor.stack, len(donor.tensors))
    built = {name: layers for name, layers in known.items() if layers is not None}
    if own is None or len(built) < len(known):
        check_names(donor, moves, kinds_by_lists(donor, moves))
        return dict(config)
    fit = _Fit(donor, own, built, moves)
    written, output = fit.written(config)
    check_names(donor, moves, fit.kinds(output))
    return written


def described_as(
    config: Mapping[str, Any], donor: Mapping[str, Any], layers: int
) -> Mapping[str, Any]:
    """Returns a model's configuration, with the donor's lists about single layers written out.

    A config.json may leave out a list that transformers derives, where the donor's has it.

    Args:
        config: the model's configuration.
        donor: the configuration of the model whose config.json is used.
        layers: how many layers the model has.
    """
    level = level_of(config)
    wanted = {key for key, value in level_of(donor).items() if isinstance(value, list)}
    if not wanted - level.keys() or (loaded := loaded_config(config)) is None:
        return config
    derived = level_of(loaded.to_dict())
    return with_level(
        config,
        {
            key: derived[key]
            for key in wanted - level.keys()
            if is_per_layer(key, derived.get(key), layers)
            or is_layer_numbers(key, derived.get(key), layers)
        },
    )


class _Fit:
    """The layers of all models as transformers builds them, and what is wanted of the output."""

    def __init__(
        self,
        donor: StackedModel,
        own: Layers,
        built: Mapping[str, Layers],
        moves: Sequence[Move],
    ) -> None:
        self._donor, self._own, self._built, self._moves = donor, own, built, moves
        self._count = sum(move.gives for move in moves)

    def written(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], Layers]:
        """Returns the first configuration that fits, and its layers.

        Raises:
            MismatchError: if none fits.
        """
        nearest: tuple[list[_Misfit], Layers] | None = None
        for candidate in self._candidates(config):
            output = self.layers(candidate)
            if output is None:
                continue
            misfits = self.misfits(output)
            if not misfits:
                self._check_outside(output)
                return candidate, output
            if nearest is None or len(misfits) < len(nearest[0]):
                nearest = misfits, output
        raise MismatchError(
            self._refusal(nearest[0][0], nearest[1])
            if nearest
            else f"{self._donor.name}: transformers builds its config.json, but not the one with "
            f"{self._count} layers that these slices make. Choose other ranges of layers."
        )

    def layers(self, config: Mapping[str, Any]) -> Layers | None:
        """Returns the layers that a configuration of the output makes."""
        return layers_of(config, self._donor.stack, self._count)

    def misfits(self, output: Layers) -> list[_Misfit]:
        """Returns the layers that are of another kind than the output's, in the output's order."""
        settings = self._settings(output)
        repeated = numbers([self._own, output, *self._built.values()])
        own_lists = [self._own.lists(layer) for layer in range(len(self._own.facts))]
        found = []
        for move in self._moves:
            layers = self._built[move.model.name]
            wanted, there = layers.facts[move.layer], output.facts[move.to]
            # A kind of layer that the donor lacks: its configuration knows no settings for it, so
            # those that this whole model shares count as well.
            foreign = layers.lists(move.layer) not in own_lists
            counted = {fact for fact in wanted if fact[0] == SETTING} - repeated
            if facts := differences(wanted, there, counted if foreign else settings):
                found.append(_Misfit(move, facts))
        return found

    def _check_outside(self, output: Layers) -> None:
        """Raises an error if tensors outside the layers depend on the number of layers."""
        lacking = set(self._own.outside.items()) ^ set(output.outside.items())
        if lacking:
            name = min(name for name, _ in lacking)
            ours, theirs = self._own.outside.get(name), output.outside.get(name)
            raise MismatchError(
                f"{self._donor.name}: the files have {tensor_text(name, ours)}; with "
                f"{self._count} layers, config.json describes {tensor_text(name, theirs)}. This "
                "model has parts outside its layers that depend on how many there are: give "
                f"slices that make {len(self._donor.tensors)} layers."
            )

    def kinds(self, output: Layers) -> dict[tuple[str, int], str]:
        """Returns (model, layer) -> a text that is the same for layers of one kind."""
        settings = self._settings(output)
        models = {**self._built, self._donor.name: self._own}
        return {
            (name, number): _kind(facts, settings)
            for name, layers in models.items()
            for number, facts in enumerate(layers.facts)
        }

    def _settings(self, output: Layers) -> set[Fact]:
        """Returns the settings that differ between the layers of some model."""
        return varying([self._own, output, *self._built.values()])

    def _candidates(self, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields configurations of the output, from the least changed on."""
        yield dict(config)
        explicit = with_level(config, self._explicit(config))
        yield explicit
        yield from other_placements(explicit, self._own.config, self._measure)

    def _explicit(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the lists about single layers that transformers derives, restacked."""
        count = len(self._own.facts)
        origins = [
            LayerOrigin(self._built[move.model.name].config, move.layer)
            for move in self._moves
            if move.gives
        ]
        shared = {
            key: value
            for key, value in self._own.config.items()
            if all(isinstance(origin.config.get(key), type(value)) for origin in origins)
        }
        lists = restacked_lists(shared, count, origins, self._donor.name)
        # Lists that were and stay empty are no news.
        return {key: value for key, value in lists.items() if value or self._own.config[key]}

    def _measure(self, config: Mapping[str, Any]) -> Fitness | None:
        """Returns how well a configuration of the output fits; None if it cannot be built."""
        output = self.layers(config)
        if output is None:
            return None
        misfits, settings = self.misfits(output), self._settings(output)
        return Fitness(
            sum(len(misfit.facts) for misfit in misfits),
            sorted({misfit.move.to for misfit in misfits}),
            [_kind(facts, settings) for facts in output.facts],
            output.outside != self._own.outside or bool(self._strange(output, settings)),
        )

    def _strange(self, output: Layers, settings: Collection[Fact]) -> list[Fact]:
        """Returns the facts of the output's layers that no layer of any model has."""
        known: dict[Fact, list[Any]] = {}
        for model in (self._own, *self._built.values()):
            for layer in model.facts:
                for fact, value in layer.items():
                    known.setdefault(fact, []).append(value)
        return [
            fact
            for layer in output.facts
            for fact, value in layer.items()
            if (fact[0] == TENSOR or fact in settings) and value not in known.get(fact, ())
        ]

    def _refusal(self, misfit: _Misfit, output: Layers) -> str:
        """Returns the message for a layer that no configuration makes what it is."""
        move, fact = misfit.move, misfit.facts[0]
        wanted = _said(self._built[move.model.name].facts[move.layer], fact)
        there = _said(output.facts[move.to], fact)
        return refusal(move, f"is of another kind ({wanted}) than config.json says there ({there})")


def _kind(facts: Facts, settings: set[Fact]) -> str:
    """Returns a text that is the same for layers of one kind."""
    counted = [fact for fact in facts if fact[0] != SETTING or fact in settings]
    return repr(sorted((fact, repr(facts[fact])) for fact in counted))


def _nothing_moves(donor: StackedModel, moves: Sequence[Move]) -> bool:
    """Returns whether each layer keeps its number, in models that are configured as the donor."""
    return (
        all(move.layer == move.to for move in moves)
        and sum(move.gives for move in moves) == len(donor.tensors)
        and all(
            essential(model.config) == essential(donor.config)
            for model in {move.model.name: move.model for move in moves}.values()
        )
    )


def _said(facts: Mapping[Fact, Any], fact: Fact) -> str:
    """Returns what is known of a layer in one respect.

    >>> _said({("list", "layer_types"): "full_attention"}, ("list", "layer_types"))
    "layer_types 'full_attention'"
    """
    sort, name = fact
    if fact not in facts:
        return f"no {name}"
    return tensor_text(name, facts[fact]) if sort == TENSOR else f"{name} {facts[fact]!r}"
