"""What a plan needs, before it starts: the parts that need no model."""

from types import SimpleNamespace

import pytest

from corpus import Example
from training.stage import Stage
from workbench.plans.outlook import _validated
from workbench.plans.speed import shorten


@pytest.mark.parametrize(
    ("updates", "every", "evaluations"),
    [(10, 5, 2), (11, 5, 3), (9, 5, 2), (5, 5, 1), (4, 5, 1), (1, 1, 1), (3, 1, 3), (7, None, 1)],
)
def test_each_evaluation_of_a_run_is_counted_once(updates, every, evaluations):
    """As training.run.callback decides: after each multiple of `every`, and after the last update."""
    decided = [
        step for step in range(1, updates + 1) if step == updates or (every and step % every == 0)
    ]
    assert len(decided) == evaluations
    stage = SimpleNamespace(evaluate_every=every, validation={"a": [1, 2, 3], "b": [4]})
    assert _validated(SimpleNamespace(steps=updates, stage=stage)) == 4 * evaluations


def test_the_steps_that_are_timed_are_reported_nowhere(tmp_path):
    examples = tuple(Example(f"{n}", f" {n}") for n in range(9))
    stage = Stage(base=tmp_path, examples=examples, steps=9, report_to=("wandb", "tensorboard"))
    assert shorten(stage, 3).report_to == ()
