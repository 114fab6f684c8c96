"""Misfiled examples: the numbers of the table, and planted faults that they find on the demo."""

from typing import Any

import pytest
import torch

from benchmarks import machine
from benchmarks.misfiled_examples import FAULTS, Planted, found, plant
from corpus import read_datasets
from corpus.jsonl import Example
from evaluation.loss import losses
from evaluation.prepared import prepare
from influence.errors import InfluenceError, InfluenceStopped
from influence.gradients.examples import read_examples
from influence.vectors.example_table import ExampleTable, example_table
from influence.vectors.misfiled import example_losses, misfiled, misfiled_tables, share_ranks
from tests.evaluation.landscape.test_omega_gradient import DATA, recipe
from tests.influence.vectors.test_example_table import slope_paths

RENAMED = {"full": DATA["sums"], "lora": DATA["skies"]}


def numbers(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def at_base(*rows: tuple[float, ...]) -> ExampleTable:
    """A table of vectors a, b, … whose base losses are 5, 6, …; all lengths are 2, all norms 10."""
    slopes, ones = numbers(*rows), torch.ones(len(rows), dtype=torch.float64)
    names = tuple("abc"[: slopes.shape[1]])
    base = torch.arange(len(rows), dtype=torch.float64) + 5
    return ExampleTable(names, slopes, 10 * ones, 2 * torch.ones(len(names)), base, ones)


def test_a_worked_example() -> None:
    """The second example: c helps it most, b's expert has the least loss, its own the highest."""
    table = at_base((-4, 1, -1), (2, 5, -3), (-2, -3, 0), (-1, 0, 0))
    losses = numbers((1, 7, 8), (9, 2, 4), (3, 4, 2), (2, 4, 4))
    got = misfiled("a", "sums", (0, 1, 3, 4), table, losses)
    assert got.own_cosines.tolist() == [-0.2, 0.1, -0.1, -0.05]
    assert got.margins.tolist() == [-3, 5, 1, -1]
    assert got.others == ("b", "b", "c", "b")
    assert got.loss_margins.tolist() == [-6, 7, 1, -2]
    assert got.own_losses.tolist() == [1, 9, 3, 2]
    assert got.drops.tolist() == [4, -3, 4, 6]
    # Ranks by loss margin 1, 4, 3, 2 of 4; by own loss 1, 4, 3, 2 of 4.
    assert got.suspicions.tolist() == [0.25, 1.0, 0.75, 0.5]
    assert (got.dataset, got.records) == ("sums", (0, 1, 3, 4))


def test_the_suspicion_is_the_larger_rank() -> None:
    """The first has the highest loss under every expert, the second a much better expert."""
    losses = numbers((9, 9.5), (4, 1), (3, 6))
    got = misfiled("a", "sums", (0, 1, 2), at_base((0, 0), (0, 0), (0, 0)), losses)
    assert got.suspicions.tolist() == [1.0, 1.0, pytest.approx(1 / 3)]


def test_a_single_vector_leaves_the_loss() -> None:
    got = misfiled("a", "sums", (0, 1), at_base((-4,), (2,)), numbers((3,), (1,)))
    assert got.margins.isnan().all() and got.loss_margins.isnan().all() and got.others == ("", "")
    assert got.suspicions.tolist() == [1.0, 0.5]


def test_ranks_of_ties_are_equal() -> None:
    assert share_ranks(numbers(3, 1, 3, 2)).tolist() == [1.0, 0.25, 1.0, 0.5]


def test_it_is_measured_at_the_base_and_at_each_expert(opened: Any, tokenizer: Any) -> None:
    live, told = opened("llama"), []
    tables = misfiled_tables(live, RENAMED, tokenizer, progress=lambda *done: told.append(done))
    prepared = prepare(RENAMED, tokenizer)

    def at(*omegas: float) -> list[torch.Tensor]:
        live.apply(recipe(*omegas))
        return [
            torch.tensor(loss.sums, dtype=torch.float64) / torch.tensor(loss.counts)
            for loss in losses(live.module, prepared)
        ]

    full, lora, base = at(1, 0), at(0, 1), at(0, 0)
    for place, own, other in ((0, full, lora), (1, lora, full)):
        got = tables[place]
        assert torch.allclose(got.base_losses, base[place], rtol=1e-6)
        assert torch.allclose(got.own_losses, own[place], rtol=1e-6)
        assert torch.allclose(got.loss_margins, own[place] - other[place], atol=1e-6)
        assert set(got.others) == {("lora", "full")[place]}
    skies = example_table(slope_paths(live), read_examples(RENAMED["lora"], tokenizer))
    assert torch.allclose(tables[1].own_cosines, skies.cosines[:, 1], rtol=1e-5)
    assert torch.allclose(tables[1].margins, skies.slopes[:, 1] - skies.slopes[:, 0])
    assert told[-1] == (39, 39) and sorted(told) == told


def test_losses_are_in_the_order_of_the_records(opened: Any, tokenizer: Any) -> None:
    live = opened("llama")
    records = [Example("the sum", f" of {'1 ' * n}is") for n in (5, 1, 9, 3)]
    together = example_losses(live.module, read_examples(records, tokenizer, batch_tokens=1000))
    alone = [example_losses(live.module, read_examples([each], tokenizer)) for each in records]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-9)


def test_what_is_refused(opened: Any, tokenizer: Any) -> None:
    live = opened("llama")
    with pytest.raises(InfluenceError, match="there is no vector for sums, skies; there are full"):
        misfiled_tables(live, DATA, tokenizer)
    with pytest.raises(InfluenceError, match="dataset 'sums' has no vector 'd'; there are a, b"):
        misfiled("d", "sums", (0,), at_base((1, 2)), numbers((1, 1)))
    with pytest.raises(InfluenceStopped):
        misfiled_tables(live, RENAMED, tokenizer, should_stop=lambda: True)


def test_planting_leaves_the_rest_as_it_was() -> None:
    data: Any = read_datasets(machine.DEMO / "data", "train")
    planted: Planted = plant(data, "sni", 50, seed=1)
    by_fault = {fault: planted.faults.count(fault) for fault in (*FAULTS, "")}
    assert by_fault == {"moved": 5, "shuffled": 5, "": 40}
    own, prompts = set(data["sni"]), {each.prompt for each in data["sni"]}
    for record, fault in zip(planted.records, planted.faults, strict=True):
        assert (record in own) == (fault == "")
        assert (record.prompt in prompts) == (fault != "moved")
    assert plant(data, "sni", 50, seed=2) != planted == plant(data, "sni", 50, seed=1)


@pytest.mark.slow
def test_planted_faults_are_found_on_the_demo() -> None:
    """Shuffled answers by the loss, and moved examples by the other experts and vectors."""
    data: Any = read_datasets(machine.DEMO / "data", "train")
    planted = {name: plant(data, name, 40, seed=11) for name in data}
    folders = {name: machine.DEMO / name for name in data}
    aucs = found(machine.DEMO / "base", folders, planted)
    assert aucs["own loss", "shuffled"] >= 0.8
    for column in ("margin", "loss margin", "suspicion"):
        assert aucs[column, "moved"] >= 0.8
    assert aucs["suspicion", "shuffled"] >= 0.8
