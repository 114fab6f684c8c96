"""A tiny chat model in the place of the real base."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from workbench.demo.blank_base import write_blank

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A base of random weights whose template writes chats."""
    texts = ["What is 12 + 345? Work step by step.", "<user> <assistant>", "The answer is 67890."]
    folder = tmp_path_factory.mktemp("tiny") / "base"
    write_blank(folder, texts * 4, vocabulary=320, hidden=32)
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    return folder


def random_adapter(base, folder, seed):
    """Writes an adapter of random weights for q_proj and up_proj."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    made = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    for key, weight in made.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight, std=0.1)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base, tmp_path_factory):
    """An adapter on the tiny base."""
    return random_adapter(tiny_base, tmp_path_factory.mktemp("adapter") / "one", seed=0)
