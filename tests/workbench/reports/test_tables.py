"""What a report says when there is nothing to complain of, and when there is."""

from types import SimpleNamespace

import pytest

from workbench.reports.tables import verdict


@pytest.mark.parametrize(
    ("severities", "line"),
    [
        ([], "compatible: 3 checkpoints can be merged into the base"),
        (["info"], "compatible: 3 checkpoints can be merged into the base"),
        (["warning"], "compatible: 3 checkpoints can be merged into the base, with 1 warning"),
        (
            ["warning", "info", "warning"],
            "compatible: 3 checkpoints can be merged into the base, with 2 warnings",
        ),
        (["warning", "error"], "not compatible: 1 error (see above)"),
        (["error", "error"], "not compatible: 2 errors (see above)"),
    ],
)
def test_the_verdict_of_a_preflight(severities, line):
    problems = [SimpleNamespace(severity=severity) for severity in severities]
    assert verdict(SimpleNamespace(vectors=dict.fromkeys("abc"), problems=problems)) == line


def test_one_checkpoint_is_not_several():
    opened = SimpleNamespace(vectors={"a": None}, problems=[])
    assert verdict(opened) == "compatible: 1 checkpoint can be merged into the base"
