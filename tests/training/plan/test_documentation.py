"""The plans that docs/training.md shows."""

import re
from pathlib import Path

from training.plan.plan_file import parse_plan


def test_the_plans_of_the_documentation_are_plans():
    blocks = re.findall(
        r"```yaml\n(.*?)```",
        (Path(__file__).parents[3] / "docs/training.md").read_text("utf-8"),
        re.S,
    )
    plans = [parse_plan(block) for block in blocks if block.startswith("base:")]
    assert [len(one.steps) for one in plans] == [3, 3, 1, 3 + 2 + 5, 2, 15, 1]
    head = "base: b\nsources: {math: m.jsonl, code: c.jsonl, general: g.jsonl}\n"
    studies = next(block for block in blocks if block.startswith("schedule:")).splitlines()
    for line in studies:
        assert len(parse_plan(head + line).steps) == 5
