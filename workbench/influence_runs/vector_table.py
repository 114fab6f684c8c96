"""What a little more of each vector would do to each validation set, and to each example of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from corpus import Record
from corpus.records import place
from evaluation.landscape.slope_paths import SlopePaths
from evaluation.records.meter import measured
from influence.balance.domain_influence import DomainInfluence, domain_influence
from influence.csv_tables import cell, csv_table
from influence.gradients.examples import Examples, read_examples
from influence.rank_correlation import rank_correlation
from influence.vectors.example_table import ExampleTable, example_table
from influence.vectors.helpful_vectors import HelpfulVectors, helpful_vectors
from influence.vectors.vector_influence import VectorInfluence, vector_influence
from plumbing.suggest import listed
from workbench.errors import SessionError
from workbench.influence_runs.ideal_rounds import draw_sample
from workbench.influence_runs.trained_model import load_trained

if TYPE_CHECKING:
    from evaluation.model import Loaded
    from evaluation.records.ledger import Ledger
    from workbench.influence_runs.opened_recipe import OpenedRecipe

HEAD = ("dataset", "number", "name", "loss", "tokens", "best", "worst")
"""First columns of the CSV; a derivative and a cosine for each vector follow."""
BATCH = 2048
"""Token positions of a batch of examples, for which each delta is read once."""


class CurvatureCheck(NamedTuple):
    """The influence of the vectors' training data by EK-FAC, beside that of the vectors."""

    influence: DomainInfluence
    """Its domains are in the order of the vectors."""
    overall: float
    """Spearman's correlation over the vectors, of the means over the validation sets."""
    by_reference: tuple[float, ...]
    """Spearman's correlation over the vectors, for each validation set."""


class VectorTable(NamedTuple):
    """The derivatives of losses along vectors, for whole validation sets and single examples."""

    influence: VectorInfluence
    """Each supervised token counts alike, so its α are derivatives of the loss shown elsewhere."""
    tables: Mapping[str, ExampleTable]
    """Validation set -> its table."""
    helpful: Mapping[str, HelpfulVectors]
    """Validation set -> which vectors help its examples."""
    numbers: Mapping[str, Sequence[int]]
    """Validation set -> the number of the record, from 0, of each example."""
    names: Mapping[str, Sequence[str]]
    """Validation set -> how messages name the record of each example: "line 17"."""
    check: CurvatureCheck | None = None

    def cosines(self, dataset: str) -> list[float]:
        """Returns the mean over a set's examples of cos(∇ℓ_e, Δ_j), one for each vector."""
        found: list[float] = self.tables[dataset].cosines.nanmean(0).tolist()
        return found

    def best(self, row: int) -> str:
        """Returns the vector whose derivative is the lowest for one validation set; "" if above 0.

        Args:
            row: number of the set in `influence.references`.
        """
        alphas = self.influence.alphas[row]
        at = int(alphas.argmin())
        return self.influence.vectors[at] if alphas[at] < 0 else ""


def vector_table(
    opened: OpenedRecipe,
    datasets: Mapping[str, Sequence[Record]],
    *,
    at: Path | None = None,
    domains: Mapping[str, Sequence[Record]] | None = None,
    sample: int | None = None,
    ledger: Ledger | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> VectorTable:
    """Computes ⟨∇L, Δ_j⟩ for each validation set, each of its examples, and each vector.

    Args:
        opened: the vectors, and the composition at which the gradients are taken.
        datasets: name -> validation examples; those longer than the context are left out.
        at: a checkpoint or adapter that was trained from the base, such as on a mixture, whose
            weights take the place of the composition.
        domains: vector -> the data that it was trained on, for the comparison with EK-FAC.
        sample: for the comparison, use at most so many examples of each set, drawn at random.
        ledger: where the cost is written; nowhere if None.
        progress: called with the examples done and the examples in all.
        should_stop: asked after each batch.

    Raises:
        InfluenceError: a vector is zero, the examples do not fit the model, or EK-FAC cannot be
            computed.
        InfluenceStopped: `should_stop` returned True.
        SessionError: the domains are not those of the vectors, or the model's parameters are no
            plain copies of its files.
    """
    names = list(opened.vectors)
    if domains is not None and (wrong := sorted(domains.keys() ^ set(names))):
        raise SessionError(
            f"the domains are {listed(sorted(domains))} and the vectors {listed(names)}; they "
            f"differ in {listed(wrong)}. Give the training data of each vector under its name."
        )
    loaded = _module(opened, at)
    tokenizer = loaded.tokenizer
    read = {
        name: read_examples(records, tokenizer, too_long="drop", batch_tokens=BATCH)
        for name, records in datasets.items()
    }
    paths = SlopePaths(loaded.module, loaded.views, list(opened.vectors.values()))
    with measured(ledger, "influence", "vectors on examples") as meter:
        tables = _tables(paths, read, progress, should_stop)
        meter.count(sum(len(table.losses) for table in tables.values()))
    influence = vector_influence(tables, alike="tokens")
    found = VectorTable(
        influence,
        tables,
        {name: helpful_vectors(table) for name, table in tables.items()},
        {name: examples.records for name, examples in read.items()},
        {
            name: [place(datasets[name][number], number) for number in examples.records]
            for name, examples in read.items()
        },
    )
    if domains is None:
        return found
    with measured(ledger, "influence", "EK-FAC of the domains") as meter:
        ordered = {name: domains[name] for name in names}
        curvature = _curvature(loaded, ordered, datasets, sample, should_stop)
        meter.count(sum(curvature.sizes))
    return found._replace(check=_compare(influence, curvature))


def _module(opened: OpenedRecipe, at: Path | None) -> Loaded:
    """Returns the model at which the gradients are taken.

    Raises:
        SessionError: the files' tensors are no plain copies of its parameters.
    """
    if opened.loaded.reloads:
        raise SessionError(
            f"tensors in the files of {opened.base.path} are not plain copies of the model's "
            "parameters, so a vector has no direction among these. Give a model of another kind."
        )
    if at is not None:
        return load_trained(opened.base.path, at)
    opened.composer.compose(opened.recipe)
    return opened.loaded


def _tables(
    paths: SlopePaths,
    read: Mapping[str, Examples],
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> dict[str, ExampleTable]:
    """Returns the table of each validation set."""
    total = sum(len(each.records) for each in read.values())
    tables: dict[str, ExampleTable] = {}
    for name, examples in read.items():
        before = sum(len(table.losses) for table in tables.values())

        def told(done: int, _: int, before: int = before) -> None:
            progress(before + done, total)

        tables[name] = example_table(paths, examples, progress=told, should_stop=should_stop)
    return tables


def _curvature(
    loaded: Loaded,
    domains: Mapping[str, Sequence[Record]],
    references: Mapping[str, Sequence[Record]],
    sample: int | None,
    should_stop: Callable[[], bool],
) -> DomainInfluence:
    """Returns the influence of the domains by EK-FAC, perhaps of samples of them."""
    drawn, wanted = (
        {
            name: read_examples(records, loaded.tokenizer, too_long="drop")
            for name, records in draw_sample(each, sample, "0").items()
        }
        for each in (domains, references)
    )
    sizes = {name: len(records) for name, records in domains.items()}
    return domain_influence(loaded.module, drawn, wanted, sizes=sizes, should_stop=should_stop)


def _compare(vectors: VectorInfluence, domains: DomainInfluence) -> CurvatureCheck:
    """Returns how far the order of the vectors is that of their training data."""
    overall = rank_correlation(vectors.alphas.mean(0).tolist(), domains.alpha.tolist())
    rows = zip(vectors.alphas.tolist(), domains.alpha_per_ref.tolist(), strict=True)
    return CurvatureCheck(domains, overall, tuple(rank_correlation(*row) for row in rows))


def examples_csv(found: VectorTable) -> str:
    """Returns all examples as CSV: the columns of HEAD, then those of each vector."""
    vectors = found.influence.vectors
    head = [*HEAD, *(f"slope {name}" for name in vectors), *(f"cosine {name}" for name in vectors)]
    rows = []
    for dataset, table in found.tables.items():
        helpful, cosines = found.helpful[dataset], table.cosines.tolist()
        for row, number in enumerate(found.numbers[dataset]):
            values = [*table.slopes[row].tolist(), *cosines[row]]
            rows.append(
                [
                    cell(dataset),
                    number,
                    cell(found.names[dataset][row]),
                    f"{float(table.losses[row]):.6g}",
                    int(table.tokens[row]),
                    helpful.best[row],
                    helpful.worst[row],
                    *(f"{value:.6g}" for value in values),
                ]
            )
    return csv_table(head, rows)
