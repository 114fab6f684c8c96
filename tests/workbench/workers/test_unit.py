"""Units and results as text, and what a workdir keeps of a result."""

import math

from evaluation.records.ledger import Ledger
from evaluation.records.loss_cache import Entry, LossCache
from tests.workbench.workers.benches import result_of, unit_of
from workbench.workers.unit import Unit, UnitResult, keep

ENTRY = Entry("ada", 0.1 + 0.2, math.nan, 3, 7, (0.1, 1e-300, 2 / 3), (2, 2, 3))
PHASE = {"kind": "evaluation", "name": "losses", "wall_seconds": 2.5, "device_seconds": 2.25}
RESULT = UnitResult(
    "id", "mix", "base", '{"a": 1}', {"examples": ENTRY}, {"examples": {"v": 1 / 3}}, (PHASE,)
)


def test_text_keeps_every_bit():
    unit = Unit("a: 1\n", "/data", {"ada": "k"}, "mix", True)
    assert Unit.from_json(unit.to_json()) == unit
    again = UnitResult.from_json(RESULT.to_json())
    # NaN is no number that equals itself, so the texts are compared.
    assert again.to_json() == RESULT.to_json()
    assert again.entries["examples"].sums == ENTRY.sums
    assert isinstance(again.entries["examples"], Entry)


def test_a_unit_is_known_by_what_it_measures_and_not_by_its_paths():
    unit = Unit("a: 1\n", "/data", {"ada": "k"}, "mix")
    assert Unit("b: 2\n", "/elsewhere", {"ada": "k"}, "mix").id == unit.id
    others = [
        Unit("a: 1\n", "/data", {"ada": "k"}, "other"),
        Unit("a: 1\n", "/data", {"ada": "l"}, "mix"),
        Unit("a: 1\n", "/data", {"ada": "k"}, "mix", gradients=True),
    ]
    assert len({unit.id, *(other.id for other in others)}) == 4


def test_the_workdir_keeps_what_a_measurement_would_have_left(tmp_path):
    book, ledger = LossCache(tmp_path / "losses"), Ledger(tmp_path / "ledger")
    keep(RESULT, book, ledger)
    got = book.get("mix", "examples")
    assert got.value == ENTRY.value and math.isnan(got.stderr)
    assert (got.sums, got.counts, got.n, got.tokens) == (ENTRY.sums, ENTRY.counts, 3, 7)
    assert book.slopes("mix", "examples") == {"v": 1 / 3}
    assert [each.parts for each in book.compositions("base", ["examples"])] == ['{"a": 1}']
    assert [(phase.name, phase.wall_seconds) for phase in ledger.phases()] == [("losses", 2.5)]
    keep(result_of(unit_of("plain", tmp_path)), book, ledger)
    assert len(ledger.phases()) == 1
    book.close()
    ledger.close()
