"""Classifiers of one token, for which everything can be computed exactly; how oracles are run."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from corpus.tokens import Encoded
from evaluation.prepared import Batch, batched
from influence.gradients.examples import Examples

ROOT = Path(__file__).parents[2]
ORACLES = ROOT / ".venv-influence" / "bin" / "python"
"""The Python of the environment with bergson, kronfluence and traker."""


class TableModel(nn.Module):
    """A network over the rows of a table; token k is row k, and the next token is its class."""

    def __init__(self, table: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table)
        self.network = network.to(table.dtype)
        self.config = SimpleNamespace(get_text_config=SimpleNamespace)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        return SimpleNamespace(logits=self.network(self.table(input_ids)))


def _one_token_sets(
    sets: Mapping[str, tuple[Tensor, Tensor]], batch: int = 1000
) -> dict[str, Examples]:
    return {name: _examples(rows, classes, batch) for name, (rows, classes) in sets.items()}


def _examples(rows: Tensor, classes: Tensor, batch: int) -> Examples:
    batches = tuple(
        Batch(
            rows[part, None],
            torch.zeros(1, dtype=torch.long),
            torch.arange(len(part)),
            torch.zeros(len(part), dtype=torch.long),
            classes[part],
            part,
        )
        for part in torch.arange(len(rows)).split(batch)
    )
    return Examples(batches, tuple(range(len(rows))), (1,) * len(rows), 2, int(rows.max()))


@pytest.fixture(scope="session")
def table_model() -> Callable[[Tensor, nn.Module], TableModel]:
    """table_model(table, network): a TableModel in evaluation mode."""
    return lambda table, network: TableModel(table, network).eval()


@pytest.fixture(scope="session")
def one_token_sets() -> Callable[..., dict[str, Examples]]:
    """one_token_sets({name: (rows of the table, classes)}, batch=1000): the sets as Examples."""
    return _one_token_sets


LANGUAGE = {"vocab_size": 41, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "max_position_embeddings": 31,
}
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA | {"tie_word_embeddings": True},
    "qwen2": LLAMA,  # biases at q, k and v
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 12, "n_inner": 17, "n_positions": 31},
    "opt": {
        "hidden_size": 12,
        "word_embed_proj_dim": 12,
        "ffn_dim": 17,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 31,
    },
    "mixtral": LLAMA | {"num_local_experts": 3, "intermediate_size": 32},
}


def _language_model(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(5)
    config = AutoConfig.for_model(family, **LANGUAGE, **LANGUAGE_MODELS[family])
    model = AutoModelForCausalLM.from_config(config).double()
    with torch.no_grad():  # biases and norms start as zeros and ones
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def _sentences(names: str, batch_tokens: int = 30) -> dict[str, Examples]:
    """Five sentences of random tokens for each letter, of 4 to 13 tokens, some of them learned."""
    sets = {}
    for letter in names:
        generator = torch.Generator().manual_seed(ord(letter))
        encoded = []
        for index in range(5):
            length = int(torch.randint(4, 14, (1,), generator=generator))
            ids = torch.randint(3, 41, (length,), generator=generator).tolist()
            learned = [False, False, *(number % 3 != 1 for number in range(length - 2))]
            encoded.append(replace(Encoded.of(ids, learned), index=index))
        sets[letter] = Examples(
            batched(encoded, batch_tokens),
            tuple(range(5)),
            tuple(each.learned for each in encoded),
            max(len(each.ids) for each in encoded),
            40,
        )
    return sets


@pytest.fixture(scope="session")
def language_model() -> Callable[[str], Any]:
    """language_model(family): a tiny random model of transformers in float64."""
    return _language_model


@pytest.fixture(scope="session")
def sentences() -> Callable[..., dict[str, Examples]]:
    """sentences("ab", batch_tokens=30): two sets of five random sentences each."""
    return _sentences


@pytest.fixture
def ask_oracle(tmp_path):
    """Runs a script of an oracle in its own environment: (script, request, answer's name) -> file."""

    def ask(script, request, answer):
        if not ORACLES.is_file():
            words = "no .venv-influence. Make it: make .venv-influence/made"
            if os.environ.get("CI", "").lower() == "true":
                pytest.fail(words)
            pytest.skip(words)
        asked = tmp_path / "request.json"
        asked.write_text(json.dumps(request))
        done = subprocess.run(
            [ORACLES, "-W", "ignore", script, asked, tmp_path / answer],
            capture_output=True,
            text=True,
            timeout=500,
            cwd=ROOT,  # the shipped adapters name their base relative to it
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return tmp_path / answer

    return ask
