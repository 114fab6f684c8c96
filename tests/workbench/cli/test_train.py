"""`dem train`: what it prints and writes, its refusals, its signals, and several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corpus import Example, write_jsonl
from evaluation.records.ledger import Ledger
from workbench.cli import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def plan(world, tmp_path):
    """The file of a plan on the tiny base, with some of its words replaced."""
    rows = [Example(f"{n} and {n % 7} is", f" {n + n % 7}") for n in range(40)]
    write_jsonl(tmp_path / "sums.jsonl", rows)
    write_jsonl(tmp_path / "words.jsonl", [Example(f"say {n}", f" {n}") for n in range(20)])

    def write(old="", new="", name="plan.yml"):
        text = (
            f"base: {world / 'base'}\nsources: {{sums: sums.jsonl, words: words.jsonl}}\nvalidation: {{words: words.jsonl}}\n"
            "settings: {epochs: 1, batch: 4, rate: 1e-3, precision: fp32, device: cpu}\n"
            "schedule: {kind: sequential, order: [sums, words]}\n"
        ).replace("validation: {words: words.jsonl}", "validation: {words: {path: words.jsonl}}")
        (tmp_path / name).write_text(text.replace(old, new) if old else text)
        return str(tmp_path / name)

    return write


def process(words, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "workbench.cli", "train", *map(str, words)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_dry_run_says_what_it_takes_and_a_run_takes_it(plan, tmp_path, capsys):
    out, workdir, file = tmp_path / "out", tmp_path / "workdir", tmp_path / "result.json"
    assert main(["train", plan(), str(out), "--dry-run", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0].split() == [
        "step", "examples", "left", "out", "tokens", "supervised", "updates", "memory", "time",
    ]  # fmt: skip
    assert "2 steps to train: ≈" in said and "(estimate, from 3 timed steps)" in said
    looked = json.loads(file.read_text())
    assert [(step["step"], step["updates"], step["examples"]) for step in looked["steps"]] == [
        ("sums", 10, 40), ("sums--words", 5, 20),
    ]  # fmt: skip
    assert not out.exists()

    words = ["--workdir", str(workdir), "--json", str(file), "--force"]
    assert main(["train", plan(), str(out), *words]) == 0
    said = capsys.readouterr().out
    assert "sums--words" in said and "words " in said and str(out / "sums") in said
    made = json.loads(file.read_text())["steps"]
    for before, after in zip(looked["steps"], made, strict=True):
        spent = after["spent"]
        assert before["seen"] == {
            name: spent[name] for name in ("examples", "tokens", "supervised")
        }
    assert [step["new"] for step in made] == [True, True] and (out / "curve.jsonl").exists()
    assert not (out / "running.json").exists()
    with Ledger(workdir / "ledger.sqlite") as ledger:
        assert [(row.name, row.examples, row.complete) for row in ledger.phases("training")] == [
            ("sums", 40, True), ("sums--words", 20, True),
        ]  # fmt: skip

    assert main(["train", plan(), str(out), "--dry-run"]) == 0
    assert "every step is done already" in capsys.readouterr().out
    assert main(["train", plan(), str(out)]) == 0
    assert capsys.readouterr().out.count("was there") == 2
    more = plan("order: [sums, words]", "order: [sums]")
    assert main(["train", more, str(tmp_path / "new"), "--dry-run", "--workdir", str(workdir)]) == 0
    assert (
        "1 step to train: ≈" in (said := capsys.readouterr().out)
        and "(from 2 earlier trainings here)" in said
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rate: 1e-3", "rte: 1e-3", "line 4, settings.rte: unknown setting; did you mean 'rate'?"),
        (
            "kind: sequential",
            "kind: sequental",
            "line 5, schedule.kind: kind is 'sequental'; did you mean 'sequential'?",
        ),
        ("sums.jsonl", "gone.jsonl", "gone.jsonl is no file or folder here"),
        ("batch: 4", "batch: 41", "40 examples do not fill one step of 41"),
        ("base: ", "base: no", "is not a folder on this machine"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_wrong_input_ends_with_code_2_and_one_message_and_nothing_written(
    plan, tmp_path, capsys, old, new, words, dry
):
    file = plan(old, new)
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", file, str(tmp_path / "out"), *dry]) == 2
    said = capsys.readouterr()
    assert words in said.err and "Traceback" not in said.err and said.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_no_plan_is_told(tmp_path, capsys):
    assert main(["train", str(tmp_path / "none.yml"), str(tmp_path / "out")]) == 2
    assert "cannot be read (No such file or directory). Give a plan" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_saves_the_state_and_resume_gives_the_same(plan, tmp_path, capsys):
    long = plan("epochs: 1", "steps: 40")
    assert main(["train", long, str(tmp_path / "whole")]) == 0
    child = process([long, tmp_path / "cut"])
    end = time.monotonic() + 120
    while not (tmp_path / "cut" / "curve.jsonl").exists():
        assert child.poll() is None and time.monotonic() < end, child.communicate()
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130, said
    assert (
        "the whole state is saved in" in said
        and "--resume goes on from there" in said
        and "Traceback" not in said
    )
    capsys.readouterr()
    assert main(["train", long, str(tmp_path / "cut")]) == 2
    assert "Resume it, or remove that folder" in capsys.readouterr().err
    assert main(["train", long, str(tmp_path / "cut"), "--resume"]) == 0
    for step in ("sums", "sums--words"):
        one, other = (
            load_file(tmp_path / name / step / "model.safetensors") for name in ("whole", "cut")
        )
        assert one.keys() == other.keys() and all(
            torch.equal(one[name], other[name]) for name in one
        )


@pytest.mark.slow
def test_a_worker_speaks_json_and_ends_with_its_stdin(plan, world, tmp_path):
    roots = ["--worker", "--root", world / "base", "--root", tmp_path]
    child = process([plan("epochs: 1", "steps: 60"), tmp_path / "out", *roots])
    events = []
    for line in child.stdout:
        events.append(json.loads(line))
        if "moment" in events[-1] and not child.stdin.closed:
            child.stdin.close()
    child.wait(120)
    assert child.returncode == 143, child.stderr.read()
    assert all(event["moment"]["of"] == 2 for event in events if "moment" in event)
    assert list((tmp_path / "out").glob("*.training/checkpoint-*/whole.json"))
    child.stdout.close()
    child.stderr.close()

    refused = process([plan("rate", "rte", "bad.yml"), tmp_path / "bad", *roots])
    out, err = refused.communicate(timeout=120)
    assert refused.returncode == 2 and "settings.rte" in json.loads(out)["error"] and err == ""


def test_a_worker_reads_its_roots_only(plan, world, tmp_path, capsys):
    """The page has checked the plan; the process that reads the files checks it again."""
    write_jsonl(tmp_path / "out" / "secret.jsonl", [Example("a", " b")])
    for roots in ([], ["--root", str(world / "base")]):
        assert main(["train", plan(), str(tmp_path / "new"), "--worker", *roots]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert error.count("is outside the folders this server may read") == 3 + (not roots)
    assert not (tmp_path / "new").exists()


def launched(words):
    """Two processes as `accelerate launch` starts them; their exit codes and what each says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    both = [process(words, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    said = [one.communicate(timeout=300) for one in both]
    return [one.returncode for one in both], said


@pytest.mark.slow
def test_two_processes_share_one_training_and_one_reports(plan, tmp_path):
    """The steps of one process, one report, one row per step in the ledger; and one message where it is refused."""
    halved = plan("batch: 4", "batch: 2")
    codes, said = launched([halved, tmp_path / "two", "--workdir", tmp_path / "workdir"])
    assert codes == [0, 0], said
    assert "sums--words" in said[0][0] and said[1][0] == ""
    with Ledger(tmp_path / "workdir" / "ledger.sqlite") as ledger:
        assert [(row.name, row.examples, row.processes) for row in ledger.phases("training")] == [
            ("sums", 40, 2), ("sums--words", 20, 2),
        ]  # fmt: skip
    codes, said = launched([plan("rate", "rte", "bad.yml"), tmp_path / "bad"])
    assert codes == [2, 2] and "settings.rte" in said[0][1] and said[1] == ("", "")
    assert not (tmp_path / "bad").exists()
