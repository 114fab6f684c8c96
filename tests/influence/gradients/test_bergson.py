"""Gradients of single examples equal those of bergson 2.5.1, an independent implementation.

bergson lives in an environment of its own.
"""

import json
import os
import subprocess
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
ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-influence" / "bin" / "python"
DEMO = ROOT / "assets" / "demo"


def test_gradients_of_an_adapter(tmp_path):
    """Twelve examples of different lengths, in one padded batch on either side."""
    if not PYTHON.is_file():
        words = "no .venv-influence. Make it: make .venv-influence/made"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(words)
        pytest.skip(words)
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base")
    records = read_datasets(DEMO / "data", "train")["mathqa"][:12]
    encoded, _ = encode_all(records, tokenizer, None)
    request, answer = tmp_path / "request.json", tmp_path / "answer.npz"
    asked = {
        "model": str(DEMO / "p3"),
        "examples": [(each.ids.tolist(), each.supervised.tolist()) for each in encoded],
        "batch_tokens": 4096,
        "size": 0,
        "target": "per_module",
    }
    request.write_text(json.dumps(asked))
    script = Path(__file__).with_name("run_bergson.py")
    done = subprocess.run(
        [PYTHON, "-W", "ignore", script, request, answer],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=ROOT,  # the shipped adapter names its base relative to it
    )
    assert done.returncode == 0, done.stderr[-3000:]
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
