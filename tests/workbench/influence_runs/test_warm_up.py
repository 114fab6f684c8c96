"""A warm-up trains on a random share of the pool and keeps a checkpoint of each pass."""

import json
from collections import Counter

import pytest

from corpus import read_selection
from evaluation.records.ledger import Ledger
from training.errors import TrainingError
from workbench.influence_runs.study import WarmUp, begin_study
from workbench.influence_runs.warm_up import DRAWN, warm_up, write_plan
from workbench.plans.recorded_run import Watcher


def test_it_keeps_a_checkpoint_of_each_pass_with_its_moments(study):
    folders = sorted((study.trained / "epochs").iterdir())
    assert [folder.name for folder in folders] == ["1", "2"]
    for folder in folders:
        assert (folder / "optimiser.safetensors").is_file()
        assert (folder / "adapter_model.safetensors").is_file()
    # 20 examples in steps of 5: 4 updates a pass, at a rate that falls.
    first, second = (json.loads((folder / "epoch.json").read_text()) for folder in folders)
    assert (first["updates"], second["updates"]) == ([1, 4], [5, 8])
    assert first["mean_rate"] > second["mean_rate"]


def test_its_records_are_a_random_share_of_the_whole_pool(study):
    drawn = read_selection(study.folder / DRAWN).chosen
    assert len(set(drawn)) == 20
    sources = Counter(each.source for each in drawn)
    assert sources.keys() == {"sums", "words"}
    # Of the pool, and not of each source: 12 and 8 would be its own coincidence.
    numbers = [each.number for each in drawn if each.source == "sums"]
    assert numbers != sorted(numbers)


def test_the_same_seed_draws_the_same_records_and_another_seed_others(
    tiny_base, pool_data, tmp_path
):
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = WarmUp(share=0.2, seed=seed)
        made, pool = begin_study(tmp_path / name, str(tiny_base), pool_data, "train", settings)
        write_plan(made, pool)
        drawn.append(read_selection(made.folder / DRAWN).chosen)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_finished_warm_up_is_not_trained_again(study, tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        made = warm_up(study, study.pool(), Watcher(), ledger)
        assert not made.new and made.folder == study.trained
        assert not ledger.phases()


def test_a_share_that_leaves_nothing_is_refused(tiny_base, pool_data, tmp_path):
    settings = WarmUp(share=0.01)
    made, pool = begin_study(tmp_path / "study", str(tiny_base), pool_data, "train", settings)
    with pytest.raises(TrainingError, match=r"0\.01 of 50 records leaves none .* at least 0\.02"):
        write_plan(made, pool)
