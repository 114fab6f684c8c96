"""The whole build on a tiny base: resumable, complete, and the same again."""

import json
from multiprocessing import active_children

import pytest

from corpus.real.datasets import EXPERTS, FILES, UNSEEN, VERDICTS, RealData, SplitCounts
from corpus.real.item import Item
from corpus.real.sums import items
from workbench.cli import main
from workbench.errors import SessionError
from workbench.real import parts, plan, rows, search, verdicts
from workbench.real import whole_build as module
from workbench.real.base import RealBase
from workbench.real.search import BASE, LABELS, SEARCHED


@pytest.fixture
def small(tiny_base, monkeypatch):
    """A tiny base, five small datasets, few tries, and every part in this process."""
    monkeypatch.setattr(module, "real_base", lambda: RealBase(tiny_base, True))
    monkeypatch.setattr(module, "datasets", lambda files, seed: data(files, seed))
    monkeypatch.setattr(module.plan, "PACKAGES", {})
    monkeypatch.setattr(module, "run_all", in_this_process)
    monkeypatch.setattr(search, "BUDGET", 4)
    monkeypatch.setattr(rows, "QUICK", 2)
    for each in (verdicts, rows):
        monkeypatch.setattr(each, "NEW_TOKENS", dict.fromkeys(verdicts.NEW_TOKENS, 3))
        monkeypatch.setattr(each, "LONGEST", 3)
    parts._measurements.cache_clear()
    yield
    parts._measurements.cache_clear()


def data(files, seed):
    """Sums under five names; of the trivia each has the words."""
    assert files == {} and seed == module.DATA_SEED
    made = {}
    for number, name in enumerate((*EXPERTS, UNSEEN)):
        three = [items(10 * number + part, 3) for part in range(3)]
        if name == "calls":
            call = {"name": "f", "arguments": {}}
            three = [[Item(i.question, json.dumps(call), call) for i in some] for some in three]
        made[name] = dict(zip(("train", "validation", "test"), three, strict=True))
    return RealData(made, dict.fromkeys(made, SplitCounts(9, 0, 0)))


def in_this_process(listed, place):
    for part in listed:
        yield parts.run_part(part, place)


def test_a_build_goes_on_where_it_was_and_ships_what_is_needed(
    small, tmp_path, monkeypatch, capsys
):
    out, ran = tmp_path / "real", []

    def breaking(listed, place):
        for part in listed:
            if part.kind == "search" and part.label == SEARCHED[2]:
                raise KeyboardInterrupt
            yield parts.run_part(part, place)

    monkeypatch.setattr(module, "run_all", breaking)
    with pytest.raises(KeyboardInterrupt):
        module.build(out, seeds=(1,))
    assert not out.exists()

    def noted(listed, place):
        listed = list(listed)
        ran.extend(part.key for part in listed)
        return in_this_process(listed, place)

    monkeypatch.setattr(module, "run_all", noted)
    told = []
    text = module.build(out, seeds=(1,), progress=lambda *what: told.append(what))
    assert ran[:3] == [f"search {label} 1" for label in SEARCHED[2:]]
    assert ran[3:] == [f"row {BASE} 1", "said 1", *(f"row {label} 1" for label in LABELS)]
    assert told[-1][1] == told[-1][2]
    assert (out / "RESULTS.md").read_text("utf-8") == text
    assert "are asked, to the models of seed 1." in text
    kept = json.loads((out / "results.json").read_text("utf-8"))["rows"]
    for label in LABELS[:-1]:
        assert [kept[f"row {label} 1"][name]["asked"] for name in VERDICTS] == [3] * len(VERDICTS)
    assert sorted(each.name for each in out.iterdir()) == sorted(
        ["RESULTS.md", "data", "recipe.yml", "results.json", *EXPERTS]
    )
    assert "MIT License" in (out / "data" / "LICENCES.md").read_text("utf-8")
    for name in EXPERTS:
        assert sorted(each.name for each in (out / name).iterdir()) == sorted(module.SHIPPED)
    recipe = (out / "recipe.yml").read_text("utf-8")
    assert "base_model: base\n" in recipe and "- model: base+calls\n" in recipe
    assert str(tmp_path) not in recipe
    for file in out.rglob("*.json"):
        assert str(tmp_path) not in file.read_text("utf-8"), file
    assert not out.with_name("real.partial").exists()


def test_another_base_is_refused_before_anything_is_trained(tmp_path, tiny_base, monkeypatch):
    monkeypatch.setattr(module, "real_base", lambda: RealBase(tiny_base, False))
    monkeypatch.setattr(module, "run_all", lambda *_: pytest.fail("something ran"))
    with pytest.raises(SessionError, match="not those of the version"):
        module.build(tmp_path / "real")


def test_the_command_says_what_cannot_be_fetched(tmp_path, tiny_base, monkeypatch, capsys):
    monkeypatch.setattr(module, "real_base", lambda: RealBase(tiny_base, True))
    monkeypatch.setenv("DEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["real", "build", "--out", str(tmp_path / "real")]) == 2
    said = capsys.readouterr().err
    assert "bfcl-eval" in said and "put the file bfcl_eval-2026.3.23-py3-none-any.whl" in said


def test_parts_run_in_processes_of_their_own(tiny_base, tmp_path):
    """An error in one of them comes out as it is."""
    place = parts.BuildFolder(tmp_path, tiny_base)
    with pytest.raises(Exception, match="calls"):
        list(parts.run_all([parts.Part("train", 0, "calls")], place))
    assert active_children() == []  # they would go on for minutes


def test_every_package_of_the_plan_has_files():
    for folder in plan.PACKAGES:
        assert any(name.startswith(f"{folder}/") for name in FILES)
    assert all(name.split("/")[0] in plan.PACKAGES for name in FILES)
