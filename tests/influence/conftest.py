"""Classifiers as language models of one token, for which everything can be computed exactly."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluation.prepared import Batch
from influence.gradients.examples import Examples


class TableModel(nn.Module):
    """A network over the rows of a table; token k is row k, and the next token is its class."""

    def __init__(self, table: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table)
        self.network = network.to(table.dtype)
        self.config = SimpleNamespace(get_text_config=SimpleNamespace)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        return SimpleNamespace(logits=self.network(self.table(input_ids)))


def _one_token_sets(
    sets: Mapping[str, tuple[Tensor, Tensor]], batch: int = 1000
) -> dict[str, Examples]:
    return {name: _examples(rows, classes, batch) for name, (rows, classes) in sets.items()}


def _examples(rows: Tensor, classes: Tensor, batch: int) -> Examples:
    batches = tuple(
        Batch(
            rows[part, None],
            torch.zeros(1, dtype=torch.long),
            torch.arange(len(part)),
            torch.zeros(len(part), dtype=torch.long),
            classes[part],
            part,
        )
        for part in torch.arange(len(rows)).split(batch)
    )
    return Examples(batches, tuple(range(len(rows))), (1,) * len(rows), 2, int(rows.max()))


@pytest.fixture(scope="session")
def table_model() -> Callable[[Tensor, nn.Module], TableModel]:
    """table_model(table, network): a TableModel in evaluation mode."""
    return lambda table, network: TableModel(table, network).eval()


@pytest.fixture(scope="session")
def one_token_sets() -> Callable[..., dict[str, Examples]]:
    """one_token_sets({name: (rows of the table, classes)}, batch=1000): the sets as Examples."""
    return _one_token_sets
