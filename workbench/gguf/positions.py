"""Puts the scaled positions of a GGUF file into the configuration; transformers leaves them out."""

from __future__ import annotations

from typing import Any

from workbench.gguf.header import ROPE_FACTORS, Refused, field

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The settings of the published Llama 3.1 and 3.2 models, besides the factor."""


def set_positions(content: Any, config: Any, notes: list[str]) -> None:
    """Puts scaled positions into the configuration, which transformers leaves out.

    Raises:
        Refused: positions are scaled in a way that is not known here.
    """
    import torch

    rope = dict(getattr(config, "rope_parameters", None) or {})
    if rope.get("rope_type", "default") != "default":
        return
    architecture = field(content, "general.architecture")
    kind = field(content, f"{architecture}.rope.scaling.type")
    tensors = {each.name: each for each in content.tensors}
    if ROPE_FACTORS in tensors:
        factors = torch.tensor(tensors[ROPE_FACTORS].data.copy()).float().flatten()
        rope |= {"rope_type": "llama3", "factor": round(float(factors.max()), 4), **LLAMA3}
        if not torch.allclose(factors, llama3_factors(rope, 2 * len(factors)), rtol=1e-3):
            raise Refused(
                f"its {ROPE_FACTORS} scales the positions in a way that is not Llama 3's, and "
                "transformers' configuration has no place for it."
            )
    elif kind in ("linear", "yarn"):
        rope |= {
            "rope_type": kind,
            "factor": field(content, f"{architecture}.rope.scaling.factor"),
        }
        before = field(content, f"{architecture}.rope.scaling.original_context_length")
        if before is not None:
            rope["original_max_position_embeddings"] = before
    elif kind not in (None, "none"):
        raise Refused(
            f"its positions are scaled ({kind}) in a way that transformers does not read from GGUF."
        )
    else:
        return
    config.rope_parameters = rope
    notes.append(f"Positions are scaled: {rope['rope_type']}, by {rope['factor']:g}.")


def llama3_factors(rope: dict[str, Any], dimensions: int) -> Any:
    """Returns the divisor of each frequency in Llama 3's scaling, one for each two dimensions.

    Long waves are stretched by the factor, short ones are not, and those between in part
    (transformers' _compute_llama3_parameters).
    """
    import math

    import torch

    powers = torch.arange(0, dimensions, 2, dtype=torch.float64) / dimensions
    waves = 2 * math.pi * rope["rope_theta"] ** powers
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = ((rope["original_max_position_embeddings"] / waves - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - share) / rope["factor"] + share)).float()
