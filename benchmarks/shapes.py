"""Checkpoints with random weights in the shapes of real models, made for the benchmarks.

    python -m benchmarks.shapes FOLDER SIZE EXPERTS

makes them in its own process, because the kernel counts a child's peak memory from the moment of
the fork, when the child still holds what its parent held.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIZES = {
    # (hidden, intermediate, layers, heads, key-value heads, vocabulary), as in Llama configurations
    "tiny": (64, 176, 2, 4, 2, 1024),
    "135M": (576, 1536, 30, 9, 3, 49_152),  # SmolLM2-135M
    "0.1B": (768, 2048, 12, 12, 4, 32_000),
    "0.5B": (1024, 4096, 20, 16, 8, 64_000),
    "1.2B": (2048, 8192, 16, 32, 8, 128_256),
    "8B": (4096, 14_336, 32, 32, 8, 128_256),
}
"""Name of a size -> its dimensions. The tests run "tiny"."""
UNTIED = ("8B",)
"""Sizes whose LM head is not tied to the embeddings."""


def up_to(size: str) -> list[str]:
    """Return the sizes from "0.1B" up to `size`; for a smaller one only itself."""
    names = list(SIZES)
    return names[names.index("0.1B") : names.index(size) + 1] or [size]


def tensors(size: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of the tensors of a Llama of one of SIZES."""
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
    if size in UNTIED:
        yield "lm_head.weight", (vocabulary, hidden)


def config(size: str) -> dict[str, object]:
    """Return the content of a config.json that transformers loads."""
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
        "tie_word_embeddings": size not in UNTIED,
        "dtype": "bfloat16",
    }


def parameters(size: str) -> int:
    """Return the number of parameters of one of SIZES."""
    return sum(math.prod(shape) for _, shape in tensors(size))


def nbytes(size: str, copies: int) -> int:
    """Return the bytes that `copies` models of one of SIZES take in bfloat16."""
    return parameters(size) * 2 * copies


@contextmanager
def checkpoints(size: str, experts: int, kept: Path | None = None) -> Iterator[Path]:
    """Yield a folder with base, expert0, expert1, … in bfloat16, on the disk and in the page cache.

    Args:
        size: one of SIZES.
        experts: how many experts.
        kept: a folder in which they stay for the next benchmark. If None, they are removed at the
            end.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if kept is None else kept / size
        # In its own process: the memory for making them would be in the peak of every later child.
        subprocess.run(
            [sys.executable, "-m", "benchmarks.shapes", folder, size, str(experts)],
            check=True,
            cwd=Path(__file__).parents[1],
        )
        yield folder


def files(folder: Path, experts: int) -> list[Path]:
    """Return the weight files of the base and of the first `experts` experts of a folder."""
    return [
        folder / name / "model.safetensors"
        for name in ("base", *(f"expert{number}" for number in range(experts)))
    ]


def recipe(
    folder: Path,
    experts: int,
    method: str = "task_arithmetic",
    parameters: Mapping[str, object] | None = None,
    *,
    base_listed: bool = False,
    weighted: bool = True,
) -> Path:
    """Write a recipe of the base and the first `experts` experts of a folder; return its path.

    Args:
        folder: from `checkpoints`.
        experts: how many.
        method: the merge method.
        parameters: those of the recipe, by key.
        base_listed: list the base among the models too, as mergekit wants it for slerp.
        weighted: give each expert an ω.
    """
    listed: list[dict[str, object]] = [{"model": str(folder / "base")}] if base_listed else []
    listed += [
        {
            "model": str(folder / f"expert{number}"),
            "parameters": {"weight": round(0.2 + number / 10, 1)} if weighted else {},
        }
        for number in range(experts)
    ]
    document = {
        "merge_method": method,
        "base_model": str(folder / "base"),
        "dtype": "bfloat16",
        "models": listed,
        **({"parameters": dict(parameters)} if parameters else {}),
    }
    # YAML reads JSON.
    file = folder / f"recipe-{method}{experts}.yml"
    file.write_text(json.dumps(document, indent=1))
    return file


def make(folder: Path, size: str, experts: int) -> None:
    """Make a base and its experts in bfloat16; folders that exist stay.

    Each expert is the base plus noise of about a hundredth of the base's spread, so that it is as
    near to the base as a fine-tune.
    """
    wanted = [folder / "base", *(folder / f"expert{number}" for number in range(experts))]
    if all(checkpoint.exists() for checkpoint in wanted):
        return
    import torch
    from safetensors.torch import load_file

    generator = torch.Generator().manual_seed(0)
    if not (folder / "base").exists():
        base = {
            name: torch.empty(shape).normal_(0, 0.02, generator=generator)
            for name, shape in tensors(size)
        }
        _save(folder / "base", {name: values.bfloat16() for name, values in base.items()}, size)
        del base
    for number in range(experts):
        if not (folder / f"expert{number}").exists():
            generator.manual_seed(number + 1)
            tuned = load_file(folder / "base" / "model.safetensors")
            for name, values in tuned.items():
                # torch draws uniform noise three times as fast as normal noise.
                noise = torch.empty(values.shape).uniform_(-4e-4, 4e-4, generator=generator)
                tuned[name] = noise.add_(values).bfloat16()
            _save(folder / f"expert{number}", tuned, size)
    # Otherwise the first measurement would share the disk with these bytes.
    os.sync()


def _save(folder: Path, weights: dict[str, Any], size: str) -> None:
    from safetensors.torch import save_file

    # Renamed when it is complete: a run that was interrupted leaves no half of a checkpoint.
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "config.json").write_text(json.dumps(config(size)))
    partial.rename(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
