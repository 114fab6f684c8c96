"""The bar of an export job moves on one scale, whatever its steps are."""

import pytest

from workbench.jobs import export
from workbench.session.job_table import Handle
from workbench.session.standing import Choice


@pytest.mark.parametrize(
    ("method", "steps"),
    [("task_arithmetic", ["write", "verify"]), ("metagpt", ["measure", "write", "verify"])],
)
def test_the_share_of_an_export_never_falls_and_ends_at_1(session, monkeypatch, method, steps):
    told, whole = [], Handle.progress

    def progress(handle, done, total, message=""):
        told.append((message, done / total))
        whole(handle, done, total, message)

    monkeypatch.setattr(Handle, "progress", progress)
    recipe = session.models.recipe((0.5, 0.25, 0.0), Choice.of(method, {}))
    job = session.jobs.wait(export.submit(session, recipe, f"by-{method}").id)
    assert (job.state, job.share) == ("done", 1.0)
    assert list(dict.fromkeys(step for step, _ in told)) == steps
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == 1.0
    # There is nothing left to read back: verifying is no part of the bar.
    assert [share for step, share in told if step == "write"][-1] == 1.0
    if method == "metagpt":
        assert [share for step, share in told if step == "measure"][-1] == 0.5
