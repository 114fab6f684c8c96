"""Measures the rows of the real demo's table: losses and right answers on the test split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus.real.datasets import EXPERTS, UNSEEN, VERDICTS
from corpus.records import Record
from corpus.source import Source, load_source
from workbench.real.search import (
    BASE,
    METHODS,
    ONE,
    OWN,
    TUNED,
    Composition,
    Found,
    merged_vector,
    search,
    share_of_gain,
)
from workbench.real.verdicts import LONGEST, NEW_TOKENS, answers, verdict

if TYPE_CHECKING:
    from evaluation.model import Loaded
    from evaluation.prepared import Prepared
    from merging import Recipe

QUICK = 10
"""Examples of each validation set that the search measures."""

ALL = (*EXPERTS, UNSEEN)
"""The datasets that are measured."""

Cells = dict[str, dict[str, float]]
"""Dataset -> loss, loss_stderr and n, and where answers were judged right, right_stderr, asked.

Builds before 2026-11-29 asked only the models of the first seed.
"""


def records(data: Path, split: str, names: Sequence[str]) -> dict[str, tuple[Record, ...]]:
    """Reads a split of some datasets."""
    return {
        name: tuple(load_source(Source(name, str(data / name / f"{split}.jsonl"))))
        for name in names
    }


Ends = dict[str, dict[str, float]]
"""base -> dataset -> its loss, and own -> dataset -> the loss of its expert."""


class TestSplit:
    """The test split, prepared for one tokenizer.

    Args:
        data: folder of the datasets.
        tokenizer: of the models that are measured.
    """

    __test__ = False  # pytest would take it for a class of tests

    def __init__(self, data: Path, tokenizer: Any) -> None:
        from evaluation.prepared import prepare

        self._prepared: Prepared = prepare(records(data, "test", ALL), tokenizer)
        self._rows: dict[str, list[dict[str, Any]]] = {
            name: [
                json.loads(line)
                for line in (data / name / "test.jsonl").read_text("utf-8").splitlines()
            ]
            for name in EXPERTS
        }

    def first(self, name: str) -> dict[str, Any]:
        """Returns the first line of a dataset."""
        return self._rows[name][0]

    def cells(self, loaded: Loaded, names: Sequence[str] = ALL) -> Cells:
        """Measures a model on some datasets: losses, and right answers where they can be told."""
        from evaluation.loss import losses

        chosen = tuple(each for each in self._prepared.datasets if each.name in names)
        made: Cells = {
            loss.dataset: {"loss": loss.value, "loss_stderr": loss.stderr, "n": loss.n}
            for loss in losses(loaded.module, replace(self._prepared, datasets=chosen))
        }
        for name in made.keys() & VERDICTS.keys():
            found = verdict(loaded.module, loaded.tokenizer, name, self._rows[name])
            made[name] |= {"right": found.right, "right_stderr": found.stderr, "asked": found.n}
        return made


class Measurements:
    """Everything that is measured of one seed's experts and their compositions.

    Args:
        recipe: the composition of the experts, with any ω.
        data: folder of the datasets.
        scratch: where the vectors of other methods are kept.
        seed: of methods that draw at random.
    """

    def __init__(self, recipe: Recipe, data: Path, scratch: Path, seed: int) -> None:
        import torch

        from evaluation.model import load
        from evaluation.prepared import prepare
        from merging import Checkpoint, in_memory

        assert recipe.base is not None
        opened = Checkpoint(recipe.base)
        # In float32, whatever the CPU: a composition rounded to bfloat16 is another model.
        self._loaded = load(recipe.base, checkpoint=opened, dtype=torch.float32)
        self._base, self._recipe = in_memory(opened), recipe
        self._scratch, self._seed = scratch, seed
        self._test = TestSplit(data, self._loaded.tokenizer)
        self._validation = prepare(
            records(data, "validation", EXPERTS), self._loaded.tokenizer, limit=QUICK
        )

    def ends(self) -> Ends:
        """Returns the losses on the validation split at the ends of the axes."""
        experts = self._compose(self._recipe)
        return {
            "base": experts.losses({}, self._validation),
            "own": {name: experts.losses({name: 1.0}, self._of(name))[name] for name in EXPERTS},
        }

    def search(self, label: str, ends: Ends) -> Found:
        """Searches the ω or the λ of one of SEARCHED.

        Args:
            label: of the row.
            ends: what `ends` returned.
        """
        composition = self._compose(self._recipe_of(label))
        names = composition.names

        def losses(omegas: Mapping[str, float]) -> dict[str, float]:
            each = dict.fromkeys(names, omegas["ω"]) if label == ONE else omegas
            return composition.losses(each, self._validation)

        return search(
            losses, ["ω"] if label == ONE else names, share_of_gain(ends["base"], ends["own"])
        )

    def row(self, label: str, found: Found | None) -> Cells:
        """Measures one composition.

        Args:
            label: of the row.
            found: what its search returned; None for the uniform average.
        """
        if found is None:
            return self.composed(dict.fromkeys(EXPERTS, 1 / len(EXPERTS)))
        if label == ONE:
            return self.composed(dict.fromkeys(EXPERTS, found.omegas["ω"]))
        self._compose(self._recipe_of(label)).apply(found.omegas)
        return self._test.cells(self._loaded)

    def composed(self, omegas: Mapping[str, float]) -> Cells:
        """Measures a composition of the experts; those without an ω get 0."""
        self._compose(self._recipe).apply(omegas)
        return self._test.cells(self._loaded)

    def own_experts(self) -> Cells:
        """Measures each expert on its own dataset, and all of them on the unseen one."""
        experts, cells, unseen = self._compose(self._recipe), Cells(), list[dict[str, float]]()
        for name in EXPERTS:
            experts.apply({name: 1.0})
            measured = self._test.cells(self._loaded, (name, UNSEEN))
            cells[name] = measured[name]
            unseen.append(measured[UNSEEN])
        # The mean over experts; their errors are of the same examples, so they do not shrink.
        return cells | {
            UNSEEN: {key: sum(each[key] for each in unseen) / len(unseen) for key in unseen[0]}
        }

    def said(self, omegas: Mapping[str, float]) -> dict[str, dict[str, str]]:
        """Asks base, own expert and composition the first test question of each dataset.

        Args:
            omegas: of the composition.

        Returns:
            Dataset -> the question, the answer in the data, and what each of the three said.
        """
        experts = self._compose(self._recipe)
        made: dict[str, dict[str, str]] = {}
        for name in EXPERTS:
            question, answer = (turn["content"] for turn in self._test.first(name)["messages"])
            made[name] = {"question": question, "answer": answer}
            for who, each in ((BASE, {}), (OWN, {name: 1.0}), (TUNED, omegas)):
                experts.apply(each)
                [made[name][who]] = answers(
                    self._loaded.module,
                    self._loaded.tokenizer,
                    [question],
                    max_new_tokens=NEW_TOKENS.get(name, LONGEST),
                )
        return made

    def alone(self, folder: Path, names: Sequence[str] = ALL) -> Cells:
        """Measures one adapter on the base, or one model of the same architecture."""
        from merging import Recipe

        assert self._recipe.base is not None
        self._compose(Recipe.compose(self._recipe.base, {"alone": folder})).apply({"alone": 1.0})
        return self._test.cells(self._loaded, names)

    def _compose(self, recipe: Recipe) -> Composition:
        return Composition(self._base, self._loaded, recipe)

    def _recipe_of(self, label: str) -> Recipe:
        """Returns the recipe whose ω a row has: of the experts, or of one merged vector."""
        if label not in METHODS:
            return self._recipe
        return merged_vector(
            self._recipe, label, self._scratch / f"{label}-{self._seed}", self._seed
        )

    def _of(self, name: str) -> Prepared:
        """Returns the validation examples of one dataset."""
        own = tuple(each for each in self._validation.datasets if each.name == name)
        return replace(self._validation, datasets=own)
