"""What vectors do to validation sets: finite differences, single examples, files, EK-FAC beside."""

import csv
import math

import pytest

from corpus import read_datasets
from evaluation.loss import losses
from evaluation.prepared import prepare
from evaluation.records.ledger import Ledger
from influence.errors import InfluenceStopped
from merging import read_recipe
from workbench.errors import SessionError
from workbench.influence_runs.opened_recipe import open_models
from workbench.influence_runs.vector_table import examples_csv, vector_table

OMEGAS = {"ada": 0.5, "bob": -0.25, "lora": 0.75}


@pytest.fixture(scope="module")
def opened(world):
    return open_models(read_recipe(world / "recipe.yml"))


@pytest.fixture(scope="module")
def data(world):
    read = read_datasets(world / "data", "validation")
    # Answers of one digit and of two, so that tokens and examples do not weigh alike.
    return {name: read[name][7:12] for name in ("ada", "lora")}


@pytest.fixture(scope="module")
def found(opened, data):
    return vector_table(opened, data)


def test_it_is_the_slope_of_the_loss(opened, data, found):
    """(L(ω + h) − L(ω − h)) / 2h for each set and each vector."""
    prepared, step = prepare(data, opened.loaded.tokenizer), 1e-2
    for column, name in enumerate(found.influence.vectors):
        ends = []
        for by in (step, -step):
            module = opened.compose(OMEGAS | {name: OMEGAS[name] + by})
            ends.append([each.value for each in losses(module, prepared)])
        slopes = [(up - down) / (2 * step) for up, down in zip(*ends, strict=True)]
        assert found.influence.alphas[:, column].tolist() == pytest.approx(
            slopes, rel=0.02, abs=1e-4
        )


def test_single_examples_average_to_the_whole(found):
    """Weighted by their supervised tokens."""
    for row, (name, table) in enumerate(found.tables.items()):
        mean = (table.slopes * table.tokens[:, None]).sum(0) / table.tokens.sum()
        assert mean.tolist() == pytest.approx(found.influence.alphas[row].tolist())
        at = int(mean.argmin())
        assert found.best(row) == (found.influence.vectors[at] if mean[at] < 0 else "")
        assert found.cosines(name) == pytest.approx(table.cosines.mean(0).tolist())
        assert all(abs(value) < 1 for value in found.cosines(name))


def test_the_csv_has_every_example(found):
    rows = list(csv.DictReader(examples_csv(found).splitlines()))
    assert [(row["dataset"], row["number"]) for row in rows] == [
        (name, str(number)) for name in ("ada", "lora") for number in range(5)
    ]
    for row in rows:
        slopes = {name: float(row[f"slope {name}"]) for name in OMEGAS}
        lowest, highest = min(slopes, key=slopes.__getitem__), max(slopes, key=slopes.__getitem__)
        assert row["best"] == (lowest if slopes[lowest] < 0 else "")
        assert row["worst"] == (highest if slopes[highest] > 0 else "")
        assert all(slopes[name] * float(row[f"cosine {name}"]) >= 0 for name in OMEGAS)
        assert row["name"] == f"line {int(row['number']) + 8}" and float(row["loss"]) > 0


def test_it_can_be_asked_at_a_trained_model(opened, data, found, world):
    """The expert bob is Θ + 1 · Δ_bob."""
    at = vector_table(opened, data, at=world / "bob")
    alone = opened.recipe.with_omegas({"ada": 0.0, "bob": 1.0, "lora": 0.0})
    composed = vector_table(open_models(alone), data)
    assert at.influence.alphas.flatten().tolist() == pytest.approx(
        composed.influence.alphas.flatten().tolist(), rel=1e-3, abs=1e-6
    )
    assert not at.influence.alphas.allclose(found.influence.alphas, rtol=1e-2)


@pytest.mark.slow
def test_ek_fac_is_asked_of_the_vectors_data(opened, data, world, tmp_path):
    """The order of the domains is that of the vectors, however the folder lists them."""
    domains = read_datasets(world / "data", "validation")
    turned = dict(reversed(domains.items()))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        found = vector_table(opened, data, domains=turned, sample=6, ledger=ledger)
        rows = [(row.name, row.examples) for row in ledger.phases("influence")]
    assert rows == [("vectors on examples", 10), ("EK-FAC of the domains", 69)]
    assert found.check is not None and found.check.influence.domains == ("ada", "bob", "lora")
    assert found.check.influence.sizes == (23, 23, 23)
    means = found.influence.alphas.mean(0).tolist()
    alphas = found.check.influence.alpha.tolist()

    def places(values):
        return [sorted(values).index(value) for value in values]

    gaps = sum((a - b) ** 2 for a, b in zip(places(means), places(alphas), strict=True))
    assert found.check.overall == pytest.approx(1 - 6 * gaps / (3 * 8))
    assert len(found.check.by_reference) == 2


def test_bad_input_is_refused_by_name(opened, data, world):
    domains = read_datasets(world / "data", "validation")
    del domains["bob"]
    with pytest.raises(SessionError, match="they differ in bob. Give the training data of each"):
        vector_table(opened, data, domains=domains)
    with pytest.raises(InfluenceStopped):
        vector_table(opened, data, should_stop=lambda: True)


def test_one_example_has_no_error(opened, data):
    single = vector_table(opened, {"ada": data["ada"][:1]})
    assert all(math.isnan(each) for each in single.influence.stderrs[0].tolist())
    assert math.isnan(float(single.influence.agreement[0]))
