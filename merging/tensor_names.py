"""Reads the layer and the part of a tensor from its name, and sorts names in reading order.

There is no table of architectures, on purpose: with such tables, merging tools lose tensors
silently. The result decides only how tensors are grouped on screen and which slider rules match,
never which tensors exist.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

PARTS = ("embeddings", "attention", "mlp", "norms", "head", "other")

# The words that model families use for the parts of a block. Components of a name are read from
# its end, and the first list that contains a component decides. So `self_attn.q_norm.weight` is a
# norm, and `mlp.experts.3.w1.weight` is an MLP.
_WORDS: dict[str, tuple[str, ...]] = {
    "norms": ("norm", "layernorm", "rmsnorm", "ln", "ln_f", "ln_1", "ln_2"),
    "head": ("lm_head", "embed_out", "output_projection", "score", "classifier"),
    "embeddings": (
        "wte",
        "wpe",
        "embed",
        "embedding",
        "embeddings",
        "embed_tokens",
        "embed_in",
        "embed_positions",
    ),
    "attention": (
        "attn",
        "attention",
        "self_attn",
        "self_attention",
        "selfattention",
        "encdecattention",
        "mixer",
    ),
    "mlp": (
        "mlp",
        "ffn",
        "feed_forward",
        "densereludense",
        "experts",
        "block_sparse_moe",
        "fc1",
        "fc2",
        "dense_h_to_4h",
    ),
}


class Place(NamedTuple):
    """The position of a tensor in a model."""

    stack: str
    """The name before the layer number, such as 'model.layers'; empty outside the layers."""
    layer: int | None
    """The first integer in the name; None outside the layers."""
    part: str
    """One of PARTS."""

    @property
    def label(self) -> str:
        """Its row in a table by layer: the layer's number; outside the layers, the part."""
        return self.part if self.layer is None else str(self.layer)


def place(name: str) -> Place:
    """Returns the position of a tensor, read from its name.

    >>> place("model.layers.12.self_attn.q_proj.weight")
    Place(stack='model.layers', layer=12, part='attention')
    >>> place("model.embed_tokens.weight")
    Place(stack='', layer=None, part='embeddings')
    """
    components = name.split(".")
    for position, component in enumerate(components):
        if component.isdecimal():
            return Place(
                ".".join(components[:position]), int(component), _part(components[position + 1 :])
            )
    return Place("", None, _part(components))


def _part(components: list[str]) -> str:
    """Returns the part that the components of a name after the layer number belong to."""
    for component in reversed(components):
        word = component.lower()
        for part, words in _WORDS.items():
            if word in words or (
                part == "norms" and (word.endswith("norm") or word.startswith(("norm", "ln_")))
            ):
                return part
    # Names that no list has, such as `attention_layernorm2`: parts of words are tried, norms first.
    for component in reversed(components):
        word = component.lower()
        if "norm" in word:
            return "norms"
        if "attn" in word or "attention" in word:
            return "attention"
        if "mlp" in word or "ffn" in word:
            return "mlp"
        if "embed" in word:
            return "embeddings"
    return "other"


def depths_of(base: Iterable[str]) -> dict[str, float | None]:
    """Returns tensor -> i/(L−1) of its layer i of L; None outside the layers.

    As in mergekit, it is 1 in a model with one layer. Each stack of layers counts for itself.
    """
    places = {name: place(name) for name in base}
    last: dict[str, int] = {}
    for position in places.values():
        if position.layer is not None:
            last[position.stack] = max(last.get(position.stack, 0), position.layer)
    return {
        name: None
        if position.layer is None
        else (position.layer / last[position.stack] if last[position.stack] else 1.0)
        for name, position in places.items()
    }


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a sort key that compares numbers as numbers: layer 2 comes before layer 10."""
    # Words and numbers get one form, because Python cannot compare a number with text, and one name
    # may begin with a digit where another begins with a letter.
    pieces = re.split(r"(\d+)", name)
    return tuple(
        (1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces if piece
    )


def reading_order(names: list[str]) -> list[str]:
    """Returns the names in reading order: embeddings, layers in order, what follows, the head."""
    outside = {"embeddings": 0, "norms": 2, "other": 2, "head": 3}

    def key(name: str) -> tuple[object, ...]:
        position = place(name)
        rank = 1 if position.layer is not None else outside.get(position.part, 2)
        return (rank, natural_key(position.stack), position.layer or 0, natural_key(name))

    return sorted(names, key=key)


_BUFFERS = (
    "inv_freq",
    "masked_bias",
    "position_ids",
    "token_type_ids",
    "relative_position_index",
    "num_batches_tracked",
)


def is_buffer(name: str, dimensions: int) -> bool:
    """Returns whether a stored tensor is a constant of the code, not a weight.

    Some files of a model have such tensors and others of the same model do not. GPT-2's files hold
    the causal mask as `attn.bias`, with four dimensions; a real bias has one.

    Args:
        name: the tensor's name.
        dimensions: its number of dimensions.
    """
    return name.rsplit(".", 1)[-1] in _BUFFERS or (name.endswith("attn.bias") and dimensions == 4)
