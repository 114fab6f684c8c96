"""A base and three sources in one folder, and plans on them that take seconds."""

import pytest
import torch

from corpus import Example, write_jsonl
from training.plan.plan_file import parse_plan
from workbench.demo.blank_base import write_blank

SIZES = {"math": 40, "code": 24, "general": 32}
TEXTS = {
    "math": lambda n: Example(
        f"{n} plus {n % 7} is", f" {n + n % 7}", label=("even", "odd")[n % 2]
    ),
    "code": lambda n: Example(f"print {n} as hex", f" {hex(n)}" * (1 + n % 3), label="hex"),
    "general": lambda n: Example(f"say hello to number {n}", f" hello {n}", label="chat"),
}
SETTINGS = "{epochs: 1, rate: 3e-3, batch: 4, precision: fp32, device: cpu}"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for name, size in SIZES.items():
        write_jsonl(home / f"{name}.jsonl", [TEXTS[name](n) for n in range(size)])
        write_jsonl(home / "held" / f"{name}.jsonl", [TEXTS[name](n) for n in range(100, 107)])
    texts = [
        text
        for name in SIZES
        for n in range(40)
        for text in (TEXTS[name](n).prompt, TEXTS[name](n).completion)
    ]
    write_blank(home / "base", texts, vocabulary=300, hidden=32)
    return home


@pytest.fixture
def text():
    """The text of a plan from its schedule, settings and more lines."""
    return lambda schedule, settings=SETTINGS, more="": (
        "base: base\nsources: {math: math.jsonl, code: code.jsonl, general: general.jsonl}\n"
        f"settings: {settings}\nschedule: {schedule}\n{more}\n"
    )


@pytest.fixture
def plan(home, text):
    """The plan of such a text."""
    return lambda *args: parse_plan(text(*args), home=home)
