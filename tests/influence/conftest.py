"""Classifiers as language models of one token, for which everything can be computed exactly."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluation.prepared import Batch, Dataset, Prepared


class TableModel(nn.Module):
    """A network over the rows of a table; token k is row k, and the next token is its class."""

    def __init__(self, table: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table)
        self.network = network.to(table.dtype)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        return SimpleNamespace(logits=self.network(self.table(input_ids)))


def _one_token_sets(sets: Mapping[str, tuple[Tensor, Tensor]], batch: int = 1000) -> Prepared:
    datasets = []
    for name, (rows, classes) in sets.items():
        numbers = torch.arange(len(rows))
        batches = tuple(
            Batch(
                rows[part, None],
                torch.zeros(1, dtype=torch.long),
                torch.arange(len(part)),
                torch.zeros(len(part), dtype=torch.long),
                classes[part],
                part,
            )
            for part in numbers.split(batch)
        )
        datasets.append(Dataset(name, len(rows), len(rows), batches))
    largest = max(int(rows.max()) for rows, _ in sets.values())
    return Prepared(tuple(datasets), dict.fromkeys(sets, 0), largest)


@pytest.fixture(scope="session")
def table_model() -> Callable[[Tensor, nn.Module], TableModel]:
    """table_model(table, network): a TableModel in evaluation mode."""
    return lambda table, network: TableModel(table, network).eval()


@pytest.fixture(scope="session")
def one_token_sets() -> Callable[..., Prepared]:
    """one_token_sets({name: (rows of the table, classes)}, batch=1000): prepared datasets."""
    return _one_token_sets
