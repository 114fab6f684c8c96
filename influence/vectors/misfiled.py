"""Which training examples are misfiled: another dataset fits them better, or their answer is wrong.

Each fault has a number that sees it best, and no number sees both well:

- An example of another dataset has a lower loss under that dataset's expert than under its own
  (`loss_margins`), and at the base that vector lowers its loss more than its own (`margins`).
- A wrong answer has a high loss under its own expert (`own_losses`). Its gradient resembles that of
  its neighbours, so similarity alone cannot be relied on, and the losses are always in the table.

`python -m benchmarks.misfiled_examples` prints how well each number finds planted faults.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from corpus.records import Record
from evaluation.landscape.slope_paths import SlopePaths
from influence.errors import InfluenceError, InfluenceStopped
from influence.gradients.examples import Examples, mean_losses, numbers, read_examples
from influence.vectors.example_table import ExampleTable, example_table
from merging.live.live_model import LiveModel
from merging.recipe import Recipe
from plumbing.suggest import listed


class MisfiledTable(NamedTuple):
    """How well each training example of one dataset fits the dataset's own vector.

    Numbers are larger for what is more suspicious, but for `drops`.
    """

    dataset: str
    records: tuple[int, ...]
    """The number, from 0, of the record that each example comes from."""
    own_cosines: Tensor
    """(examples,) float64: cos(∇ℓ, Δ_own) at the base; positive if the own vector raises ℓ."""
    margins: Tensor
    """(examples,) float64: ⟨∇ℓ, Δ_own⟩ − min over the others of ⟨∇ℓ, Δ_other⟩ at the base, in nats
    per supervised token and unit of ω; NaN without others."""
    loss_margins: Tensor
    """(examples,) float64: ℓ(Θ_own) − min over the others of ℓ(Θ_other), in nats per supervised
    token; positive if another expert is better. NaN without others."""
    others: tuple[str, ...]
    """For each example, the vector of that least loss; "" without others."""
    base_losses: Tensor
    """(examples,) float64: the mean-token loss of the base, in nats."""
    own_losses: Tensor
    """(examples,) float64: that of the dataset's own expert."""

    @property
    def drops(self) -> Tensor:
        """(examples,) float64: how much the own expert lowers the loss of the base."""
        return self.base_losses - self.own_losses

    @property
    def suspicions(self) -> Tensor:
        """(examples,) float64, above 0 and at most 1: the larger of two ranks within the dataset.

        The ranks are those of `own_losses` and `loss_margins`, the best number for each fault; 0.9
        is no less than 90 % of the dataset. Ranks, because losses of different datasets cannot be
        compared. The larger one, because a mean would hide a fault that only one of them sees.
        """
        ranks = [share_ranks(self.own_losses)]
        if any(self.others):
            ranks.append(share_ranks(self.loss_margins))
        return torch.stack(ranks).amax(0)


def misfiled(
    own: str, dataset: str, records: Sequence[int], at_base: ExampleTable, losses: Tensor
) -> MisfiledTable:
    """Makes the table of one dataset from what was measured.

    Args:
        own: the name of the dataset's vector.
        dataset: the name of the dataset.
        records: (examples,), the number of each example's record.
        at_base: the examples' derivatives along all vectors, at the base.
        losses: (examples, vectors), the mean-token losses of the experts Θ + Δ_j.

    Raises:
        InfluenceError: no vector has the name `own`.
    """
    if own not in at_base.vectors:
        raise InfluenceError(
            f"dataset {dataset!r} has no vector {own!r}; there are {listed(at_base.vectors)}. "
            "Give each dataset the name of its own vector."
        )
    column = at_base.vectors.index(own)
    margins, _ = _over_others(at_base.slopes, column)
    loss_margins, least = _over_others(losses, column)
    alone = len(at_base.vectors) == 1
    return MisfiledTable(
        dataset,
        tuple(records),
        at_base.cosines[:, column],
        margins,
        loss_margins,
        tuple("" if alone else at_base.vectors[place] for place in least),
        at_base.losses,
        losses[:, column],
    )


def _over_others(values: Tensor, own: int) -> tuple[Tensor, list[int]]:
    """Returns how far each row's own value is above the least of the others, and where that is.

    Args:
        values: (examples, vectors).
        own: the column of the own vector. Without other columns the margins are NaN.
    """
    others = values.clone()
    others[:, own] = torch.inf
    least = others.min(dim=1)
    margins = values[:, own] - least.values
    return torch.where(margins.isinf(), torch.nan, margins), least.indices.tolist()


def misfiled_tables(
    live: LiveModel,
    datasets: Mapping[str, Sequence[Record]],
    tokenizer: Any,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[MisfiledTable]:
    """Measures training data at the base and at each expert, and returns a table for each dataset.

    For n vectors it costs the gradients of each example (influence.vectors.example_table) and n
    forward passes. The live model is left at the last expert.

    Args:
        live: the base with the vectors; a dataset's own vector has the dataset's name.
        datasets: dataset -> the records that its expert was trained on.
        tokenizer: the tokenizer of the model.
        progress: called with the passes that are done and the passes in all: of each example one
            for its gradient, and one for each vector.
        should_stop: asked after each batch.

    Raises:
        InfluenceError: a dataset has no vector, or its records cannot be used; lines are named.
        InfluenceStopped: `should_stop` returned True.
        CorpusError: the tokenizer's template cannot write a chat.
    """
    if unknown := [name for name in datasets if name not in live.vectors]:
        raise InfluenceError(
            f"there is no vector for {listed(unknown)}; there are {listed([*live.vectors])}. "
            "Give each dataset the name of its own vector."
        )
    encoded = {
        name: read_examples(records, tokenizer, batch_tokens=2048)
        for name, records in datasets.items()
    }
    paths = SlopePaths(live.module, live.views, list(live.vectors.values()))
    _compose(live, {})
    total = (1 + len(live.vectors)) * sum(len(each.records) for each in encoded.values())
    at_base: dict[str, ExampleTable] = {}
    for name, examples in encoded.items():
        before = sum(len(table.losses) for table in at_base.values())

        def told(done: int, _: int, before: int = before) -> None:
            progress(before + done, total)

        at_base[name] = example_table(
            paths,
            examples,
            progress=told,
            should_stop=should_stop,
        )
    losses = {name: torch.zeros_like(table.slopes) for name, table in at_base.items()}
    done = total // (1 + len(live.vectors))
    for column, vector in enumerate(live.vectors):
        _compose(live, {vector: 1.0})
        for name, examples in encoded.items():
            losses[name][:, column] = example_losses(live.module, examples, should_stop=should_stop)
            done += len(examples.records)
            progress(done, total)
    return [
        misfiled(name, name, examples.records, at_base[name], losses[name])
        for name, examples in encoded.items()
    ]


def example_losses(
    module: nn.Module, examples: Examples, *, should_stop: Callable[[], bool] = lambda: False
) -> Tensor:
    """Returns the mean-token loss of each example, (examples,) float64, in nats.

    Args:
        module: a causal language model of transformers in evaluation mode, on any device.
        examples: what `read_examples` made with this model's tokenizer.
        should_stop: asked after each batch.

    Raises:
        InfluenceError: an example does not fit the model.
        InfluenceStopped: `should_stop` returned True.
    """
    examples.check(module)
    losses = torch.zeros(len(examples.records), dtype=torch.float64)
    with torch.inference_mode():
        for batch in examples.batches:
            losses[numbers(batch)] = mean_losses(module, batch).to("cpu", torch.float64)
            if should_stop():
                raise InfluenceStopped("stopped while the losses of an expert were computed")
    return losses


def share_ranks(values: Tensor) -> Tensor:
    """Returns, for each value, the share of the values that are not above it; ties have one rank.

    >>> share_ranks(torch.tensor([3.0, 1.0, 3.0, 2.0]))
    tensor([1.00, 0.25, 1.00, 0.50])
    """
    ascending = values.sort().values
    return torch.searchsorted(ascending, values.contiguous(), right=True).double() / len(values)


def _compose(live: LiveModel, omegas: Mapping[str, float]) -> None:
    """Makes the live model equal to Θ + Σ ω_j Δ_j; 0 for vectors that `omegas` does not name."""
    names = {name: name for name in live.vectors}
    live.apply(Recipe.compose("base", names, omegas))
