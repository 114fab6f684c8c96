"""What a selection will cost: counts and bytes by hand, and parts of a study that are done."""

import shutil

import pytest

from influence.projection.projector import Projection
from workbench.influence_runs.data_settings import SelectSettings
from workbench.influence_runs.gradient_store import store_gradients
from workbench.influence_runs.outlooks.select_outlook import select_outlook
from workbench.influence_runs.study import open_study


@pytest.fixture
def asked(tiny_base, pool_data):
    """The settings of the study in conftest.py, with 3 targets of each of 2 subtasks."""

    def make(method="less", **more):
        return SelectSettings(
            str(tiny_base), str(pool_data), str(pool_data), limit=3, method=method, size=16,
            warm_share=0.4, epochs=2, rate=5e-3, rank=2, batch=5, **more,
        )  # fmt: skip

    return make


def of(settings, folder):
    return select_outlook(settings, folder, start=lambda: 2.0)


def test_less_counts_its_parts(asked, tmp_path):
    first, warm, store, targets = of(asked(), tmp_path / "new").parts
    assert first.seconds >= 3 * 2.0  # three processes
    assert (warm.examples, store.examples, targets.examples) == (20 * 2, 50 * 2, 6 * 2)
    # Half-precision rows of 16, a float32 norm and a mark, for 50 examples at 2 checkpoints.
    assert store.disk == 100 * (2 * 16 + 4 + 1)
    assert store.tokens and store.seconds / store.tokens == pytest.approx(
        targets.seconds / targets.tokens
    )
    assert warm.disk > 0 and warm.seconds > 0 and not (tmp_path / "new").exists()


def test_what_a_study_has_is_not_counted_again(asked, study, tmp_path):
    shutil.copytree(study.folder, tmp_path / "own", ignore=shutil.ignore_patterns("store-*"))
    study = open_study(tmp_path / "own")
    first, warm, store, _ = of(asked(), study.folder).parts
    assert warm.done and warm.seconds == 0 and not store.done
    assert first.seconds >= 2 * 2.0
    store_gradients(study, "sign", Projection(dimension=16))
    outlook = of(asked(kind="sign"), study.folder)
    assert outlook.parts[2].done and outlook.parts[2].seconds == 0
    assert outlook.disk == 0


@pytest.mark.parametrize(
    ("method", "examples"), [("rds", 56), ("bm25", 56), ("random", 50), ("stratified", 50)]
)
def test_other_methods_store_nothing_and_are_one_process(asked, tmp_path, method, examples):
    outlook = of(asked(method), tmp_path)
    first, part = outlook.parts
    assert 2.0 <= first.seconds < 4.0 and part.examples == examples
    assert outlook.disk == 0 and part.seconds > 0 and "timed here" in outlook.based_on[0]
