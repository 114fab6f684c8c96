"""From a warm-up to a selection: stored gradients, scores by every method, choices and reasons."""

import shutil
from dataclasses import asdict

import pytest
import torch

from corpus import read_datasets, read_selection
from corpus.errors import CorpusError
from evaluation.records.ledger import Ledger
from influence.datastore.store import open_datastore
from influence.errors import InfluenceError, InfluenceStopped
from influence.gradients.examples import read_examples
from influence.gradients.one_by_one import one_by_one
from influence.projection.projector import Projection, Projector
from influence.selection.budget import Budget
from workbench.errors import SessionError
from workbench.influence_runs.gradient_store import store_gradients, target_gradients
from workbench.influence_runs.projected_gradients import WarmModel, warm_epochs
from workbench.influence_runs.selecting import METHODS, Question, ask
from workbench.influence_runs.study import WarmUp, begin_study, open_study

SMALL = Projection(dimension=256)


@pytest.fixture(scope="session")
def stored(study, tmp_path_factory):
    """A copy of the study with its own sgd store, which was stopped once, and its ledger."""
    copy = tmp_path_factory.mktemp("stored") / "study"
    shutil.copytree(study.folder, copy, ignore=shutil.ignore_patterns("store-*"))
    study = open_study(copy)
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite")
    asked = iter([False, False, True])
    with pytest.raises(InfluenceStopped):
        store_gradients(study, "sgd", SMALL, ledger=ledger, should_stop=lambda: next(asked))
    told = []
    coverage = store_gradients(
        study, "sgd", SMALL, ledger=ledger, progress=lambda *now: told.append(now)
    )
    yield study, coverage, told, ledger
    ledger.close()


@pytest.fixture(scope="session")
def wanted(pool_data):
    """Four sums, the targets."""
    return {"sums": read_datasets(pool_data, "validation")["sums"]}


def test_a_store_goes_on_where_it_was_stopped_and_counts_its_cost(stored):
    study, coverage, told, ledger = stored
    assert coverage.complete and coverage.rows == 100
    assert told[-1] == (100, 100)
    rows = ledger.phases("influence")
    assert [row.complete for row in rows] == [False, True]
    assert rows[-1].examples == 100 - told[0][0]
    assert open_datastore(study.store("sgd")).settings.projection == SMALL


def test_processes_share_a_store_and_the_last_one_completes_it(stored, tmp_path):
    one = stored[0]
    shutil.copytree(one.folder, tmp_path / "study", ignore=shutil.ignore_patterns("store-*"))
    two = open_study(tmp_path / "study")
    told = []
    first = store_gradients(
        two, "sgd", SMALL, process=0, processes=2, progress=lambda *now: told.append(now)
    )
    assert told[-1] == (50, 50) and not first.complete
    with pytest.raises(InfluenceError, match="50 of 100"):
        open_datastore(two.store("sgd"))
    assert store_gradients(two, "sgd", SMALL, process=1, processes=2).complete
    for number in range(2):
        rows = [open_datastore(each.store("sgd")).rows(number) for each in (one, two)]
        alone, together = (torch.tensor(each, dtype=torch.float32) for each in rows)
        # Other batches round otherwise, and rows are float16.
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_a_stored_row_is_the_projected_gradient_of_its_example(stored):
    study, *_ = stored
    store, model = open_datastore(study.store("sgd")), WarmModel(study)
    epoch = warm_epochs(study)[1]
    model.at(epoch, "sgd")
    examples = read_examples([study.pool()["words"][3]], model.tokenizer)
    [gradients] = one_by_one(model.module, examples)
    projector = Projector(SMALL)
    for name in gradients.names:
        projector.add(name, gradients.of(name))
    row = torch.from_numpy(store.rows(1)[30 + 3].astype("float32"))
    cosine = torch.nn.functional.cosine_similarity(row, projector.result()[0], 0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_a_store_with_other_settings_is_refused_by_name(stored):
    study, *_ = stored
    with pytest.raises(
        InfluenceError, match="projection.dimension: the datastore has 256, and 512"
    ):
        store_gradients(study, "sgd", Projection(dimension=512))


@pytest.mark.parametrize("policy", ["round_robin", "max"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_chooses_and_explains(stored, wanted, method, policy):
    study, *_ = stored
    answer = ask(study, wanted, Question(method, policy=policy, budget=Budget(6)))
    assert len(set(answer.choice.chosen)) == 6
    assert [each.source for each in answer.reasons.chosen] == [
        each.source for each in answer.choice.chosen
    ]
    assert asdict(answer.reasons)["sources"][0]["pool"] == 30
    if method not in ("random", "stratified"):
        # The targets are sums, so sums are chosen.
        assert {each.source for each in answer.choice.chosen} == {"sums"}


def test_a_choice_is_a_source_of_a_plan_and_a_csv(stored, wanted, tmp_path):
    study, *_ = stored
    answer = ask(study, wanted, Question("bm25", budget=Budget(4)))
    answer.write(tmp_path / "best.selection.json", study)
    assert read_selection(tmp_path / "best.selection.json").chosen == answer.choice.chosen
    assert len((tmp_path / "best.csv").read_text().splitlines()) == 5
    with pytest.raises(CorpusError, match=r"ends in \.selection\.json"):
        answer.write(tmp_path / "best.json", study)


def test_targets_of_the_pool_are_told(stored):
    study, *_ = stored
    answer = ask(study, {"mine": study.pool()["sums"][:2]}, Question("bm25", budget=Budget(2)))
    assert "2 of 2 validation examples are in the pool" in answer.overlap
    assert [each.number for each in sorted(answer.choice.chosen)] == [0, 1]


def test_target_gradients_do_not_depend_on_the_batch(stored, wanted):
    study, *_ = stored
    model = WarmModel(study)
    rows = model.at(warm_epochs(study)[0], "sgd")
    together = target_gradients(study, wanted, SMALL)[0]
    single = torch.cat([rows.of([record], SMALL) for record in wanted["sums"]])
    assert torch.allclose(together, single, rtol=1e-4, atol=1e-6 * float(single.norm()))


def test_adam_needs_the_moments_and_has_them(study):
    model, epoch = WarmModel(study), warm_epochs(study)[0]
    record = study.pool()["sums"][:1]
    sgd = model.at(epoch, "sgd").of(record, SMALL)
    adam = model.at(epoch, "adam").of(record, SMALL)
    assert float(torch.nn.functional.cosine_similarity(sgd, adam)) < 0.99
    assert epoch.digest("sgd") != epoch.digest("adam")


def test_what_is_missing_is_told_before_the_work(tiny_base, pool_data, wanted, tmp_path):
    begun, _ = begin_study(tmp_path / "study", str(tiny_base), pool_data, "train", WarmUp())
    with pytest.raises(SessionError, match="dem influence warmup once more"):
        store_gradients(begun, "sgd", SMALL)
    with pytest.raises(InfluenceError, match="There is no datastore"):
        ask(begun, wanted, Question())
    with pytest.raises(InfluenceError, match="did you mean 'less'"):
        Question("les")
    # The others need neither a warm-up nor a store.
    assert ask(begun, wanted, Question("random", budget=Budget(1))).choice.chosen
    with pytest.raises(InfluenceError, match="nothing has no examples"):
        ask(begun, {"nothing": []}, Question("random"))
