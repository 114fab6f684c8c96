"""A proxy of a tiny model in float64, which every test may train anew; a base, and a stage on it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from corpus import Example
from corpus.tokens import Encoded
from influence.balance.proxy import Proxy
from influence.balance.proxy_data import ProxyData
from training.stage import Stage
from workbench.demo.blank_base import write_blank

RATE = 0.02


def rows(letter: str, count: int, shift: int = 0) -> list[Encoded]:
    """Sentences of 4 to 13 random tokens of which two thirds are learned; `shift` moves these."""
    generator = torch.Generator().manual_seed(ord(letter))
    found = []
    for index in range(count):
        length = int(torch.randint(4, 14, (1,), generator=generator))
        ids = torch.randint(3, 41, (length,), generator=generator).tolist()
        learned = [False, False, *(number % 3 != 1 for number in range(length - 2))]
        moved = [
            3 + (token - 3 + shift) % 38 if is_learned else token
            for token, is_learned in zip(ids, learned, strict=True)
        ]
        found.append(replace(Encoded.of(moved, learned), index=index))
    return found


def _proxy(language_model: Callable[[str], Any], domains: Any, targets: Any, **more: Any) -> Proxy:
    model = language_model("llama").train()
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))
    # Of 40 positions, so that what a step draws of a domain needs several batches.
    data = ProxyData(
        domains, targets, **({"steps": 2, "draw": 4, "positions": 40, "seed": 3} | more)
    )
    return Proxy(model, optimiser, schedule, data, clip=0.5)


@pytest.fixture
def proxy_of(language_model: Callable[[str], Any]) -> Callable[..., Proxy]:
    """proxy_of(domains, targets, steps=2, draw=4): a proxy that SGD trains, with a clip of 0.5."""
    return lambda domains, targets=None, **more: _proxy(
        language_model, domains, targets or {}, **more
    )


@pytest.fixture(scope="session")
def random_rows() -> Callable[..., list[Encoded]]:
    """random_rows("a", 5, shift=0): five random examples."""
    return rows


@pytest.fixture(scope="session")
def sums() -> list[Example]:
    """Twelve sums."""
    return [Example(f"{a} plus {b} is", f" {a + b}") for a in range(4) for b in range(3)]


@pytest.fixture(scope="session")
def words() -> list[Example]:
    """Three sentences."""
    return [Example(f"say {word}", f" {word} {word}") for word in ("one", "two", "three")]


@pytest.fixture(scope="session")
def plain_stage(
    sums: list[Example], words: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> Stage:
    """Two passes over the sums in updates of 5 · 2, of a Llama with 4 layers of 32, in float32."""
    texts = [example.prompt + example.completion for example in sums + words]
    folder = tmp_path_factory.mktemp("tiny") / "base"
    base = write_blank(folder, texts, vocabulary=300, hidden=32)
    return Stage(
        base=base, examples=tuple(sums), epochs=2.0, batch=5, accumulation=2, precision="fp32",
        device="cpu", keep_epochs=True,
    )  # fmt: skip
