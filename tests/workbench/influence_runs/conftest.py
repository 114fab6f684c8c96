"""A tiny base, a pool of two sources, and a study of it whose warm-up is done."""

from pathlib import Path

import pytest

from corpus import Example, write_jsonl
from workbench.demo.blank_base import write_blank
from workbench.influence_runs.study import WarmUp, begin_study
from workbench.influence_runs.warm_up import warm_up
from workbench.plans.recorded_run import Watcher

SUMS = [Example(f"{a} plus {b} is", f" {a + b}") for a in range(6) for b in range(5)]
WORDS = [
    Example(f"say {first} {second}", f" {second} {first}")
    for first in ("one", "two", "three", "four", "five")
    for second in ("dog", "cat", "cow", "hen")
]
QUICK = WarmUp(share=0.4, epochs=2, rate=5e-3, rank=2, batch=5)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A Llama with 4 layers of 32, a context of 256 and 300 tokens."""
    texts = [example.prompt + example.completion for example in SUMS + WORDS]
    return write_blank(tmp_path_factory.mktemp("tiny") / "base", texts, vocabulary=300, hidden=32)


@pytest.fixture(scope="session")
def pool_data(tmp_path_factory) -> Path:
    """30 sums and 20 sentences to train on; 4 of each, which are others, to validate."""
    data = tmp_path_factory.mktemp("pool")
    for name, examples in (("sums", SUMS), ("words", WORDS)):
        write_jsonl(data / name / "train.jsonl", examples)
    held = [Example(f"{a} plus {b} is", f" {a + b}") for a, b in ((7, 1), (8, 2), (9, 3), (7, 4))]
    write_jsonl(data / "sums" / "validation.jsonl", held)
    held = [Example(f"say {word} hen", f" hen {word}") for word in ("six", "ten", "dog", "cow")]
    write_jsonl(data / "words" / "validation.jsonl", held)
    return data


@pytest.fixture(scope="session")
def study(tiny_base, pool_data, tmp_path_factory):
    """A study whose warm-up is done: 20 of 50 records, two passes."""
    folder = tmp_path_factory.mktemp("studies") / "study"
    made, pool = begin_study(folder, str(tiny_base), pool_data, "train", QUICK)
    warm_up(made, pool, Watcher())
    return made


@pytest.fixture
def mix_plan(world, tmp_path):
    """mix_plan(schedule, more=""): a plan on ada (23 examples), bob and lora, as a file."""

    def write(schedule: str = "{kind: mixing}", more: str = "", name: str = "plan") -> Path:
        data = {name: f"{world}/data/{name}/validation.jsonl" for name in ("ada", "bob", "lora")}
        listed = ", ".join(f"{name}: {file}" for name, file in data.items())
        file = tmp_path / f"{name}.yml"
        file.write_text(
            f"base: {world}/base\nsources: {{{listed}}}\nvalidation: {{{listed}}}\n"
            "settings: {steps: 3, batch: 4, rate: 0.01, device: cpu, precision: fp32}\n"
            f"schedule: {schedule}\n{more}"
        )
        return file

    return write
