"""Answers in a batch are those of one question at a time, and verdicts are counted."""

import pytest
import torch

from evaluation.generation import generate
from evaluation.model import load
from merging import Checkpoint
from workbench.real.verdicts import answers, verdict


@pytest.fixture(scope="module")
def loaded(tiny_base):
    return load(tiny_base, checkpoint=Checkpoint(tiny_base), dtype=torch.float32)


def test_a_batch_gives_what_each_question_gives_alone(loaded):
    """The oracle writes one answer at a time, without padding."""
    questions = ["What is 1?", "What is 12 + 345? Work step by step.", "The answer"]
    side = loaded.tokenizer.padding_side
    said = answers(loaded.module, loaded.tokenizer, questions, max_new_tokens=12)
    assert loaded.tokenizer.padding_side == side
    for question, text in zip(questions, said, strict=True):
        prompt = loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        alone = generate(loaded.module, loaded.tokenizer, prompt, max_new_tokens=12, written=True)
        assert text == "".join(alone).strip()


def test_a_verdict_counts_right_answers(loaded, monkeypatch):
    """3 of 4: √(0.75 · 0.25 / 3) = 0.25."""
    rows = [{"messages": [{"content": str(n)}], "accepted": str(n)} for n in (1, 2, 3, 9)]
    said = iter([["It is 1.", "2", "3 or 3", "8"]])
    monkeypatch.setattr("workbench.real.verdicts.answers", lambda *_, **__: next(said))
    assert verdict(loaded.module, loaded.tokenizer, "sums", rows) == (0.75, 0.25, 4)
