"""A demo ships the losses that every page of it needs: they are those of its files, and are not measured again."""

import shutil

import pytest

from evaluation.loss import losses
from evaluation.prepared import Prepared
from workbench.demo.build import DEMO
from workbench.demo.known_losses import keep_losses
from workbench.session.loss_on_axis import FULL, QUICK
from workbench.session.session import KNOWN_LOSSES, Session


@pytest.fixture
def opened(tmp_path):
    """Opens a demo with an empty workdir."""
    sessions = []

    def open_demo(demo):
        sessions.append(Session([], tmp_path / f"workdir{len(sessions)}", demo=demo))
        sessions[-1].open_demo()
        assert sessions[-1].ready, sessions[-1].problem
        return sessions[-1]

    yield open_demo
    for session in sessions:
        session.close()


def test_what_is_kept_is_not_measured_again_and_the_rest_is(world, tmp_path, opened, monkeypatch):
    built = shutil.copytree(world, tmp_path / "built")
    keep_losses(built)
    # Whoever gets it has it in another folder, with files of other times.
    demo = shutil.copytree(built, tmp_path / "demo", copy_function=shutil.copyfile)
    session = opened(demo)
    models = session.models
    assert session.ledger.phases() == []
    ends = session.baselines()
    assert session.known_interference() is not None
    assert session.ledger.phases() == []  # nothing was measured
    session.losses(models.recipe({"ada": 0.5}))
    assert len(session.ledger.phases()) == 1
    (demo / KNOWN_LOSSES).unlink()
    measured = opened(demo).baselines()
    for name, (base, expert) in ends.items():
        assert base.value == pytest.approx(measured[name][0].value, rel=1e-6)
        assert expert.sums == pytest.approx(measured[name][1].sums, rel=1e-6)


def test_a_damaged_file_is_told_in_the_log_and_nothing_is_known(world, tmp_path, opened, caplog):
    demo = shutil.copytree(world, tmp_path / "demo")
    (demo / KNOWN_LOSSES).write_text("{", "utf-8")
    session = opened(demo)
    assert "losses.json has no losses that can be read" in caplog.text
    assert session.measuring.known.ends(session.models, "ada", FULL) is None


def test_the_shipped_losses_are_those_of_the_shipped_files(opened):
    session = opened(DEMO)
    models, known = session.models, session.measuring.known
    assert all(known.ends(models, name, FULL) for name in models.data)
    assert session.known_interference() is not None
    for omegas, name in (({}, "cot"), ({"p3": 1.0}, "p3")):
        recipe = models.recipe(omegas)
        few = models.data[name].prepared[QUICK]
        assert isinstance(few, Prepared)
        with session.composed(models, recipe) as module:
            (loss,) = losses(module, few)
        kept = known.loss(models, recipe, name, QUICK)
        assert kept.n == loss.n and kept.counts == loss.counts
        assert kept.sums == pytest.approx(loss.sums, rel=1e-3)
    assert session.ledger.phases() == []
