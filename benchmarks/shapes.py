"""Checkpoints with random weights of real shapes, made on the spot for the benchmarks.

    python -m benchmarks.shapes FOLDER SIZE EXPERTS

is a process of its own, because a child's peak memory, as the kernel counts it, begins with what its parent held.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = {
    # name: (hidden, intermediate, layers, heads, key-value heads, vocabulary), as in published Llama configurations
    "0.1B": (768, 2048, 12, 12, 4, 32_000),
    "0.5B": (1024, 4096, 20, 16, 8, 64_000),
    "1.2B": (2048, 8192, 16, 32, 8, 128_256),
}


def tensors(size: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama of one of SIZES, with tied embeddings."""
    hidden, inner, layers, heads, kv_heads, vocabulary = SIZES[size]
    key_value = hidden // heads * kv_heads
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.self_attn.q_proj.weight", (hidden, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (key_value, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (key_value, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (inner, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, inner)
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)


def config(size: str) -> dict[str, object]:
    """A config.json that transformers loads."""
    hidden, inner, layers, heads, kv_heads, vocabulary = SIZES[size]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def parameters(size: str) -> int:
    """The number of parameters of one of SIZES."""
    return sum(math.prod(shape) for _, shape in tensors(size))


def make(folder: Path, size: str, experts: int) -> None:
    """A base and its experts in bfloat16, and recipe.yml over them.

    Each expert is the base plus noise of a hundredth of its spread, so that it descends from the base as fine-tunes do.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = dict(tensors(size))
    base = {name: torch.empty(shape).normal_(0, 0.02, generator=generator).bfloat16() for name, shape in shapes.items()}
    _save(folder / "base", base, size)
    for number in range(experts):
        generator.manual_seed(number + 1)
        tuned = {
            name: (values.float() + torch.empty(values.shape).normal_(0, 2e-4, generator=generator)).bfloat16()
            for name, values in base.items()
        }
        _save(folder / f"expert{number}", tuned, size)
    models = [
        f"  - {{model: {folder / f'expert{number}'}, parameters: {{weight: {0.2 + number / 10:.1f}}}}}"
        for number in range(experts)
    ]
    (folder / "recipe.yml").write_text(
        "\n".join(
            ["merge_method: task_arithmetic", f"base_model: {folder / 'base'}", "dtype: bfloat16", "models:", *models]
        )
    )


def _save(folder: Path, weights: dict[str, Any], size: str) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(size)))


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
