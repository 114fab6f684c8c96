"""Tiny checkpoints, made as plain dicts of tensors: Llama's names, sizes that are distinct primes."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from merging import Recipe, View

HIDDEN, INNER, VOCAB, KEYS = 7, 11, 31, 5

Tensors = dict[str, Tensor]


def make_llama(
    seed: int = 0, *, dtype: torch.dtype = torch.float32, layers: int = 3, tied: bool = False
) -> Tensors:
    """Random weights under the names of a Llama; norms near one, so that no tensor is constant."""
    random = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (HIDDEN,),
            at + "mlp.down_proj.weight": (HIDDEN, INNER),
            at + "mlp.gate_proj.weight": (INNER, HIDDEN),
            at + "mlp.up_proj.weight": (INNER, HIDDEN),
            at + "post_attention_layernorm.weight": (HIDDEN,),
            at + "self_attn.k_proj.weight": (KEYS, HIDDEN),
            at + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            at + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            at + "self_attn.v_proj.weight": (KEYS, HIDDEN),
        }
    shapes["model.norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    return {
        name: (torch.randn(shape, generator=random) * 0.3 + (len(shape) == 1)).to(dtype)
        for name, shape in shapes.items()
    }


def make_tuned(base: Mapping[str, Tensor], seed: int, size: float = 0.03) -> Tensors:
    """A fine-tune: every floating-point tensor moved a little, everything else as it is."""
    random = torch.Generator().manual_seed(1000 + seed)
    return {
        name: (
            value.double() + size * torch.randn(value.shape, generator=random, dtype=torch.float64)
        ).to(value.dtype)
        if value.dtype.is_floating_point
        else value.clone()
        for name, value in base.items()
    }


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    shards: int = 1,
) -> Path:
    """A model folder; with shards > 1 the tensors are dealt out in turn and an index is written."""
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return folder
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {
            key: value for i, (key, value) in enumerate(tensors.items()) if i % shards == number
        }
        save_file(part, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder


def write_adapter(
    folder: Path,
    base: Mapping[str, Tensor],
    modules: Iterable[str],
    *,
    rank: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """A PEFT LoRA folder that adapts linear modules of the base, named without `.weight`."""
    random = torch.Generator().manual_seed(2000 + seed)
    folder.mkdir(parents=True)
    factors = {}
    for module in modules:
        rows, columns = base[f"{module}.weight"].shape
        at = f"base_model.model.{module}.lora_"
        factors[at + "A.weight"] = (0.3 * torch.randn(rank, columns, generator=random)).to(dtype)
        factors[at + "B.weight"] = (0.3 * torch.randn(rows, rank, generator=random)).to(dtype)
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    document = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 6,
        "bias": "none",
        "fan_in_fan_out": False,
    } | config
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def make_module(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> nn.Module:
    """A module whose parameters (buffers for integers) have the names and values of some tensors."""
    root = nn.Module()
    for name, value in tensors.items():
        at = root
        *path, leaf = name.split(".")
        for step in path:
            if step not in dict(at.named_children()):
                at.add_module(step, nn.Module())
            at = at.get_submodule(step)
        if value.dtype.is_floating_point:
            at.register_parameter(leaf, nn.Parameter(value.to(dtype or value.dtype, copy=True)))
        else:
            at.register_buffer(leaf, value.clone())
    return root


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equality of bit patterns: a NaN equals itself and −0 is not 0."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(
            one.detach().contiguous().flatten().view(torch.uint8),
            other.detach().contiguous().flatten().view(torch.uint8),
        )
    )


def make_recipe(omegas: Mapping[str, Any], method: str = "task_arithmetic", **more: Any) -> Recipe:
    """A recipe over folders that need not exist, for vectors that are passed in memory."""
    return Recipe.compose("base", {name: name for name in omegas}, omegas, method=method, **more)


@pytest.fixture
def llama() -> Callable[..., Tensors]:
    return make_llama


@pytest.fixture
def tuned() -> Callable[..., Tensors]:
    return make_tuned


@pytest.fixture
def adapter() -> Callable[..., Path]:
    return write_adapter


@pytest.fixture
def write() -> Callable[..., Path]:
    return write_folder


@pytest.fixture(scope="session")
def write_once() -> Callable[..., Path]:
    return write_folder


@pytest.fixture
def module_of() -> Callable[..., nn.Module]:
    return make_module


@pytest.fixture
def views_of() -> Callable[..., dict[str, View]]:
    """The views of a module that holds every file tensor under its own name."""
    return lambda names: {name: View(name) for name in names}


@pytest.fixture
def bits() -> Callable[[Tensor, Tensor], bool]:
    return same_bits


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how many elements are computed at once, and how many a thread takes at once: as many, if not given."""
    engine = sys.modules[
        "merging.engine.loop"
    ]  # the package's attribute of that name is its function

    def of(block: int, piece: int | None = None) -> None:
        monkeypatch.setattr(engine, "BLOCK", block)
        monkeypatch.setattr(engine, "PIECE", piece or block)

    return of


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    return make_recipe


ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-mergekit" / "bin" / "python"
MAKE = (
    "python3 -m venv .venv-mergekit && .venv-mergekit/bin/pip install torch==2.13.0 mergekit==0.1.5"
)
SCRIPT = """
    import json, sys
    import torch
    torch.set_num_threads(1)
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    for recipe, out in json.load(open(sys.argv[1])):
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(open(recipe))), out, options)
"""


@pytest.fixture(scope="session")
def run_mergekit() -> Callable[[list[tuple[str, str]], Path], None]:
    """run(jobs, folder): pairs of a recipe's file and a folder to make, all in one process, for its import takes long.

    mergekit lives in an environment of its own; a missing one skips here and fails in CI.
    """
    if not PYTHON.exists():
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"the oracle is missing. Make it: {MAKE}")
        pytest.skip(f"no .venv-mergekit. Make it: {MAKE}")

    def run(jobs: list[tuple[str, str]], root: Path) -> None:
        (root / "jobs.json").write_text(json.dumps(jobs))
        (root / "run.py").write_text(textwrap.dedent(SCRIPT))
        ended = subprocess.run(
            [PYTHON, root / "run.py", root / "jobs.json"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]

    return run


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Any]:
    """tiny(kind) -> a transformers model of that kind, four layers, random weights, no two sizes alike."""

    def tiny(kind: str) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        sizes = {"vocab_size": 31, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        if kind == "gpt2":
            sizes |= {"n_layer": 4, "n_head": 2, "n_embd": 14, "n_inner": 23, "n_positions": 17}
        else:
            sizes |= {
                "hidden_size": 14,
                "intermediate_size": 23,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 6,
                "max_position_embeddings": 17,
                "tie_word_embeddings": False,
            }
        sizes |= {"num_local_experts": 3, "num_experts_per_tok": 2} if kind == "mixtral" else {}
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))

    return tiny
