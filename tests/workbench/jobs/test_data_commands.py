"""The commands of the questions about data: what is shown, and that it says what the settings say."""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from workbench import commands
from workbench.cli import balance, influence, vectors
from workbench.influence_runs.data_settings import (
    BalanceSettings,
    MisfiledSettings,
    SelectSettings,
)
from workbench.jobs import data_commands as lines

VERBS = (influence.warmup, influence.store, influence.select, balance.balance, vectors.misfiled)
SETTINGS = SelectSettings("/m/base", "/d/pool", "/d/wanted")
STUDY, RUN, ROOT = Path("/w/study"), Path("/w/data/select/one"), Path("/w")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_the_defaults_that_are_left_out_are_those_of_the_command_line(verb):
    """Otherwise the page would show a command that does something else."""
    for name, parameter in inspect.signature(verb).parameters.items():
        option = f"--{name.replace('_', '-')}"
        # A split of targets has its own default, which is compared below; the methods of balance
        # are a list, and the command takes its default from where the page does.
        others = {(influence.select, "--split"), (balance.balance, "--method")}
        if option in lines.CLI_DEFAULTS and (verb, option) not in others:
            assert parameter.default == lines.CLI_DEFAULTS[option], (verb.__name__, option)
    assert inspect.signature(influence.select).parameters["split"].default == "validation"


def shown(command):
    return commands.shown(command.words)


def test_less_is_three_commands():
    quick = replace(SETTINGS, epochs=2, rate=2e-4, kind="adam", size=64, count=9, cap=0.25, seed=3)
    assert shown(lines.warm_up_command(quick, STUDY, ROOT, 100)) == (
        "dem influence warmup /m/base /w/study --data /d/pool --epochs 2 --seed 3 --workdir /w"
    )
    assert shown(lines.store_command(quick, STUDY, ROOT, 100)) == (
        "dem influence store /w/study --kind adam --size 64 --workdir /w"
    )
    assert shown(lines.select_command(quick, STUDY, RUN, ROOT, (100, 8))) == (
        "dem influence select /w/study /w/data/select/one/one.selection.json --targets /d/wanted "
        "--limit 20 --kind adam --count 9 --cap 0.25 --seed 3 --workdir /w"
    )


def test_other_methods_only_begin_a_study_and_have_no_options_of_less():
    by_rds = replace(SETTINGS, method="rds", kind="adam", centre=True, target_split="test")
    assert shown(lines.begin_command(by_rds, STUDY, ROOT)) == (
        "dem influence warmup /m/base /w/study --data /d/pool --rate 0.001 --workdir /w "
        "--begin-only"
    )
    assert shown(lines.select_command(by_rds, STUDY, RUN, ROOT, (100, 8))) == (
        "dem influence select /w/study /w/data/select/one/one.selection.json --targets /d/wanted "
        "--split test --limit 20 --method rds --workdir /w"
    )


def test_balance_and_misfiled_say_what_differs_from_the_defaults():
    made = lines.balance_command(
        BalanceSettings("", rounds=1, keep_total=True, estimator="identity"),
        Path("/w/b"), ROOT, [Path("/m")],
    )  # fmt: skip
    assert shown(made) == (
        "dem balance /w/b/plan.yml /w/b/rounds --rounds 1 --keep-total --estimator identity "
        "--sample 200 --workdir /w"
    )
    assert made.name == "mixtures of ideal"
    assert [str(word) for word in made.more] == [
        "--root", "/m", "--json", "/w/b/result.json", "--force",
    ]  # fmt: skip
    found = lines.misfiled_command(MisfiledSettings("", "/d/x", "dev", 5), Path("/w/f"), ROOT)
    assert shown(found) == (
        "dem misfiled /w/f/recipe.yml --data /d/x --split dev --limit 5 --out /w/f/suspects.csv "
        "--workdir /w"
    )


@pytest.mark.parametrize("method", ["doremi", "doge", "stratified"])
def test_other_methods_of_balance_have_no_options_of_ideal(method):
    settings = BalanceSettings("", method, rounds=1, keep_total=True, layers="all", seed=3)
    made = lines.balance_command(settings, Path("/w/b"), ROOT, [])
    assert shown(made) == (f"dem balance /w/b/plan.yml /w/b/rounds --method {method} --workdir /w")


def test_the_work_of_less_is_mostly_its_gradients():
    warm, store, select = (
        lines.warm_up_command(SETTINGS, STUDY, ROOT, 1000).work,
        lines.store_command(SETTINGS, STUDY, ROOT, 1000).work,
        lines.select_command(SETTINGS, STUDY, RUN, ROOT, (1000, 20)).work,
    )
    assert (warm, store, select) == (3 * 50 * 4, 3 * 1000 * 4, 3 * 20 * 4)
