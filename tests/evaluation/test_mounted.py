"""Adapters on the layers of real architectures: the same logits and losses as the composition's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus.jsonl import Example
from evaluation.loss import losses
from evaluation.model import load
from evaluation.prepared import prepare
from merging import Checkpoint, LiveModel, LoraVector, Recipe, in_memory
from merging.errors import NotMounted
from merging.live.mount import Mounts

NAMES = ("one", "two")
MATRICES = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense"],
    "phi": ["q_proj", "fc1", "dense"],
}


def adapter(base: Path, folder: Path, seed: int, targets: list[str] | str) -> Path:
    """As PEFT makes and saves it, with a B that is not 0."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(
        model, LoraConfig(r=3, lora_alpha=5, target_modules=targets, task_type="CAUSAL_LM")
    )
    torch.manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.2)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def recipe(*omegas: float) -> Recipe:
    return Recipe.compose(
        "base", {name: name for name in NAMES}, dict(zip(NAMES, omegas, strict=True))
    )


def opened(base: Path, folders: dict[str, Path], **more: Any) -> LiveModel:
    checkpoint = Checkpoint(base)
    loaded = load(base, checkpoint=checkpoint, **more)
    weights = in_memory(checkpoint)
    vectors = {name: LoraVector(folder, checkpoint, name) for name, folder in folders.items()}
    return LiveModel(loaded.module, weights, vectors, loaded.views)


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*")
@pytest.mark.parametrize(
    "family", ["llama", "llama-tied", "gpt2", "gpt_neox", "qwen2", "gemma2", "phi"]
)
def test_losses_are_those_of_the_composition(
    family: str, saved: Callable[..., Path], tokenizer: Any, tmp_path: Path
) -> None:
    base = saved(family, name="base")
    targets = MATRICES.get(family, ["q_proj", "v_proj", "o_proj"])
    folders = {
        name: adapter(base, tmp_path / name, seed, targets) for seed, name in enumerate(NAMES)
    }
    live = opened(base, folders)
    data = prepare(
        {"sums": [Example(f"the sum of {i} and 7 is", f" {i + 7}") for i in range(9)]}, tokenizer
    )
    live.apply(recipe(0.5, -0.5))
    (before,) = losses(live.module, data)
    with Mounts(live).mounted(recipe(0.5, 1.5)) as module:
        (found,) = losses(module, data)
    live.apply(recipe(0.5, 1.5))
    (wanted,) = losses(live.module, data)
    assert found.value == pytest.approx(wanted.value, rel=2e-5)
    assert abs(before.value - wanted.value) > 100 * abs(found.value - wanted.value)


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*", "ignore:.*tied.*")
@pytest.mark.parametrize(
    ("family", "mounts"), [("llama", True), ("llama-tied", True), ("gemma3_text", False)]
)
def test_embeddings_and_heads(
    family: str, mounts: bool, saved: Callable[..., Path], tmp_path: Path
) -> None:
    """A tied head moves with its embedding; Gemma 3 multiplies what it looks up, in a class of its own."""
    base = saved(family, name="base")
    folders = {
        name: adapter(base, tmp_path / name, seed, ["embed_tokens"])
        for seed, name in enumerate(NAMES)
    }
    live = opened(base, folders)
    live.apply(recipe(0.5, -0.5))
    ids = torch.arange(3, 43).view(2, 20)
    if not mounts:
        with pytest.raises(
            NotMounted, match=r"embed_tokens.weight is used by model.embed_tokens \(Gemma3Text"
        ):
            Mounts(live).plan(live.recipe, recipe(0.5, 1.5))
        return
    with Mounts(live).mounted(recipe(0.5, 1.5)) as module:
        found = module(ids).logits
    live.apply(recipe(0.5, 1.5))
    wanted = live.module(ids).logits
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_a_bfloat16_module_gives_the_losses_of_its_composition_up_to_its_own_rounding(
    saved: Callable[..., Path], tokenizer: Any, tmp_path: Path
) -> None:
    base = saved("llama", name="base", dtype=torch.bfloat16)
    folders = {
        name: adapter(base, tmp_path / name, seed, ["q_proj", "down_proj"])
        for seed, name in enumerate(NAMES)
    }
    live = opened(base, folders)
    assert live.module.dtype == torch.bfloat16
    data = prepare(
        {"sums": [Example(f"the sum of {i} and 7 is", f" {i + 7}") for i in range(9)]}, tokenizer
    )
    live.apply(recipe(0.5, -0.5))
    with Mounts(live).mounted(recipe(0.5, 1.5)) as module:
        (found,) = losses(module, data)
    live.apply(recipe(0.5, 1.5))
    (wanted,) = losses(live.module, data)
    assert found.value == pytest.approx(wanted.value, rel=2**-8)
