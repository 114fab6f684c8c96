"""Gradients of single examples equal those of bergson 2.5.1, an independent implementation.

bergson lives in an environment of its own.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from corpus import read_datasets
from corpus.tokens import encode_all
from influence.gradients.examples import read_examples
from influence.gradients.per_example import per_example

pytestmark = pytest.mark.oracle
DEMO = Path(__file__).parents[3] / "assets" / "demo"


def test_gradients_of_an_adapter(ask_oracle):
    """Twelve examples of different lengths, in one padded batch on either side."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base")
    records = read_datasets(DEMO / "data", "train")["mathqa"][:12]
    encoded, _ = encode_all(records, tokenizer, None)
    asked = {
        "model": str(DEMO / "p3"),
        "examples": [(each.ids.tolist(), each.supervised.tolist()) for each in encoded],
        "batch_tokens": 4096,
        "size": 0,
        "target": "per_module",
    }
    script = Path(__file__).with_name("run_bergson.py")
    answer = ask_oracle(script, asked, "answer.npz")
    with np.load(answer) as arrays:
        theirs = dict(arrays)
    base = AutoModelForCausalLM.from_pretrained(DEMO / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, DEMO / "p3", is_trainable=True).eval()
    (batch,) = per_example(model, read_examples(records, tokenizer, batch_tokens=4096))
    assert len(batch.names) == len(theirs) - 1 > 50
    for name in batch.names:
        ours = batch.of(name).flatten(1)
        module = name.removeprefix("base_model.").removesuffix(".weight")
        expected = torch.from_numpy(theirs[module])[batch.numbers]
        assert (ours - expected).norm() <= 1e-5 * expected.norm() > 0, name
