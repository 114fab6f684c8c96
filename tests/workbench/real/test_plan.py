"""Mixing gets as many examples as the experts together, each as often as its expert sees it."""

from collections import Counter
from pathlib import Path

from corpus.messages import Message
from corpus.real.datasets import EXPERTS
from corpus.records import Chat
from workbench.real.plan import IN_FULL, TRAININGS, stages


def test_the_mixed_adapter_sees_what_the_experts_see():
    data = {
        name: tuple(
            Chat((Message("user", f"{name} {n}"), Message("assistant", "yes"))) for n in range(3)
        )
        for name in EXPERTS
    }
    made = stages(Path("base"), data, seed=2)
    assert set(made) == set(TRAININGS)
    seen = Counter()
    for name in EXPERTS:
        assert float(made[name].epochs).is_integer() and made[name].seed == 2
        for example in data[name]:
            seen[example] += int(made[name].epochs)
    assert Counter(made["mixed"].examples) == seen and made["mixed"].epochs == 1
    assert made[IN_FULL].lora is None and made[IN_FULL].examples == made["sums"].examples
