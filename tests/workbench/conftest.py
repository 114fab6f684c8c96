"""A small real world: a tiny Llama base, two full checkpoints, one LoRA adapter, and validation data."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

NAMES = ("ada", "bob", "lora")


def write_world(root):
    """root/{base,ada,bob,lora}/, root/data/<name>/validation.jsonl, root/recipe.yml."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(7)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": 0} | {letter: place + 1 for place, letter in enumerate(letters)}
    bpe = Tokenizer(models.BPE(vocabulary, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=24, intermediate_size=44, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, max_position_embeddings=128, tie_word_embeddings=True, eos_token_id=0, bos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    weights = load_file(root / "base" / "model.safetensors")
    for number, name in enumerate(("ada", "bob")):
        shutil.copytree(root / "base", root / name)
        generator = torch.Generator().manual_seed(number)
        tuned = {
            key: value + 0.03 * torch.randn(value.shape, generator=generator)
            for key, value in weights.items()
        }
        save_file(tuned, root / name / "model.safetensors", metadata={"format": "pt"})
    write_lora(root / "lora", root / "base", weights)
    for number, name in enumerate(NAMES):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        rows = [
            {"prompt": f"{name} {i} + {number} =", "completion": f" {i + number}"}
            for i in range(23)
        ]
        (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models_yaml = "".join(
        f"  - model: {model}\n    parameters: {{weight: {omega}}}\n"
        for model, omega in (("ada", 0.5), ("bob", -0.25), ("base+lora", 0.75))
    )
    (root / "recipe.yml").write_text(
        f"merge_method: task_arithmetic\nbase_model: base\nmodels:\n{models_yaml}dem: {{names: [ada, bob, lora]}}\n"
    )
    return root


def write_lora(folder, base, weights):
    """A rank-2 adapter on every q_proj."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(11)
    tensors = {}
    for key, value in weights.items():
        if "q_proj" in key:
            module = "base_model.model." + key.removesuffix(".weight")
            tensors[f"{module}.lora_A.weight"] = (
                torch.randn(2, value.shape[1], generator=generator) * 0.1
            )
            tensors[f"{module}.lora_B.weight"] = (
                torch.randn(value.shape[0], 2, generator=generator) * 0.1
            )
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
        "base_model_name_or_path": str(base), "bias": "none", "fan_in_fan_out": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def session(world, tmp_path):
    from workbench.session.session import Session

    made = Session([], tmp_path / "workdir", demo=world)
    made.open_demo()
    assert made.ready, made.problem
    yield made
    made.close()


def measuring(session, recipe, stale=lambda: False):
    """Measures a recipe as the live line does, and yields the losses that a page would show."""
    with session.spending.tally() as tally:
        for size in ("quick", "full"):
            for update in session.measuring.steps(session.models, recipe, size, stale, tally):
                yield update.points if update else {}


def finite_differences(points, here, step=0.02):
    """Returns coordinate -> the derivative of each loss by it, from two losses beside a point."""

    def losses(name, by):
        moved = points.measure({**here, name: here[name] + by}, False, lambda: False)
        return list(moved.losses.values())

    return {
        name: [
            (up - down) / (2 * step)
            for up, down in zip(losses(name, step), losses(name, -step), strict=True)
        ]
        for name in here
    }
