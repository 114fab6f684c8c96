"""Benchmark scores: the same as lm-eval's own command line gives, quiet, stoppable, and refusing what it must."""

import contextlib
import csv
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation import benchmark_scores, harness, harness_tasks
from evaluation.errors import DataError, Stopped, TaskError
from evaluation.model import load
from merging.inputs.checkpoint import Checkpoint

Build = Callable[..., Any]
FIVE = ["demo_cot", "demo_mathqa", "demo_p3", "demo_sni", "demo_dialog"]

pytestmark = pytest.mark.filterwarnings("ignore:.*swig.*:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(build: Build, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt four answers by heart: those of a random one are all wrong, and 0 equals 0 too easily."""
    folder = tmp_path_factory.mktemp("harness") / "model"
    module = build("llama-tied", max_position_embeddings=512)
    ids, labels = torch.zeros(4, 120, dtype=torch.long), torch.full((4, 120), -100)
    for row, line in enumerate(
        (harness_tasks.ROOT / "assets/demo/data/sni/test.jsonl").read_text().splitlines()[:4]
    ):
        example = json.loads(line)
        prompt, answer = (
            tokenizer(example["prompt"])["input_ids"],
            tokenizer(example["completion"])["input_ids"],
        )
        text = [*prompt, *answer, tokenizer.eos_token_id]
        ids[row, : len(text)] = torch.tensor(text)
        labels[row, len(prompt) : len(text)] = ids[row, len(prompt) : len(text)]
    optimizer = torch.optim.AdamW(module.parameters(), lr=8e-3)
    for _ in range(90):
        module(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load(folder, checkpoint=Checkpoint(folder))


@pytest.mark.slow
def test_equals_the_command_line(
    folder: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"""-m lm_eval run --model hf --model_args pretrained={folder},dtype=float32 --tasks demo --batch_size 32
        --include_path evaluation/suites/demo --limit 7 --output_path {tmp_path / "out"}"""
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *command.split()],
        cwd=harness_tasks.ROOT,
        env=environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (file,) = (tmp_path / "out").rglob("results*.json")
    theirs = json.loads(file.read_text())["results"]
    monkeypatch.chdir(tmp_path)  # ours finds its data from any folder
    ours = {
        score.task: score for score in harness.run(model.module, model.tokenizer, "demo", limit=7)
    }
    assert list(ours) == [*FIVE, "demo"]
    for task in FIVE:
        metric = "acc" if task in ("demo_mathqa", "demo_p3") else "exact_match"
        assert ours[task].metric == metric
        assert ours[task].n == 7
        assert ours[task].value == theirs[task][f"{metric},none"]
        assert ours[task].stderr == pytest.approx(theirs[task][f"{metric}_stderr,none"])
    assert ours["demo_sni"].value >= 3 / 7
    assert ours["demo"].value == pytest.approx(sum(ours[task].value for task in FIVE) / 5)


def test_scores_follow_from_plain_generation_and_likelihood(model: Any) -> None:
    from evaluation.generation import generate

    scores = {
        score.task: score for score in harness.run(model.module, model.tokenizer, "demo", limit=5)
    }
    for name in ("sni", "p3"):
        lines = (
            (harness_tasks.ROOT / f"assets/demo/data/{name}/test.jsonl")
            .read_text()
            .splitlines()[:5]
        )
        right = 0
        for row in map(json.loads, lines):
            if name == "sni":
                text = "".join(generate(model.module, model.tokenizer, row["prompt"], stop=["\n"]))
                right += text.strip() == row["completion"].strip()
            else:
                right += best(model, row["prompt"], row["choices"]) == row["answer"]
        assert scores[f"demo_{name}"].value == pytest.approx(right / 5)


def best(model: Any, prompt: str, choices: list[str]) -> int:
    """The choice with the largest summed log-likelihood after the prompt and a space."""
    sums = []
    for choice in choices:
        ids = model.tokenizer(f"{prompt} {choice}")["input_ids"]
        start = len(model.tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            log = torch.log_softmax(model.module(torch.tensor([ids])).logits[0].double(), dim=-1)
        sums.append(sum(float(log[at - 1, ids[at]]) for at in range(start, len(ids))))
    return sums.index(max(sums))


def test_standard_error_and_mean() -> None:
    found = {
        "tasks": {"a": None, "b": None},
        "groups": {"g": Group("a", "b")},
    }
    results = {
        "a": {"alias": "a", "sample_len": 4, "acc,none": 0.5, "acc_stderr,none": 0.3},
        "b": {
            "alias": "b",
            "sample_len": 6,
            "f1,none": 0.25,
            "f1_stderr,none": "N/A",
            "exact_match,strict": 0.75,
        },
        "g": {"alias": "g"},
    }
    a, b, strict, mean = benchmark_scores.scores_of({"results": results}, found, 2.0)
    assert a == harness.Score("a", "acc", 0.5, 0.3, 4, 2.0)
    assert (b.metric, b.value, math.isnan(b.stderr)) == ("f1", 0.25, True)
    assert (strict.metric, strict.value) == ("exact_match,strict", 0.75)
    assert (mean.task, mean.metric, mean.value, mean.n) == ("g", "mean", 0.375, 10)
    assert [score.group for score in (a, b, strict, mean)] == [False, False, False, True]


class Group:
    """What lm-eval's groups answer."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def get_all_tasks(self) -> list[Any]:
        return [type("Task", (), {"task_name": name}) for name in self.names]


def test_a_group_that_lm_eval_aggregates_keeps_its_number() -> None:
    results = {
        "a": {"sample_len": 4, "acc,none": 0.5, "acc_stderr,none": 0.3},
        "b": {"sample_len": 6, "acc,none": 1.0, "acc_stderr,none": 0.0},
        "g": {"acc,none": 0.8, "acc_stderr,none": 0.12, "sample_count": {"acc,none": 10}},
    }
    found = {"tasks": {"a": None, "b": None}, "groups": {"g": Group("a", "b")}}
    assert benchmark_scores.scores_of({"results": results}, found, 1.0)[-1] == harness.Score(
        "g", "acc", 0.8, 0.12, 10, 1.0, group=True
    )


def test_the_live_module_is_scored_where_it_is(model: Any) -> None:
    parameter = model.module.model.norm.weight
    kept = parameter.clone()
    before = harness.run(model.module, model.tokenizer, "demo_p3,demo_sni", limit=5)
    with torch.no_grad():
        parameter.zero_()
    flat = harness.run(model.module, model.tokenizer, "demo_p3,demo_sni", limit=5)
    with torch.no_grad():
        parameter.copy_(kept)
    after = harness.run(model.module, model.tokenizer, "demo_p3,demo_sni", limit=5)
    values = [[score.value for score in scores] for scores in (before, flat, after)]
    assert values[0] == values[2] != values[1]
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


def test_a_head_loaded_apart_is_not_tied_again(build: Build, tokenizer: Any) -> None:
    module = build("llama", max_position_embeddings=512)
    module.config.tie_word_embeddings = (
        True  # as after loading differing head and embedding under a tied config
    )
    head = module.lm_head.weight
    harness.run(module, tokenizer, "demo_p3", limit=2)
    assert module.lm_head.weight is head
    assert module.lm_head.weight is not module.model.embed_tokens.weight
    assert "tie_weights" not in vars(module)


def test_a_tokenizer_without_pad_token_is_left_alone(build: Build, tokenizer: Any) -> None:
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    harness.run(build("llama", max_position_embeddings=512), bare, "demo_p3", limit=2)
    assert bare.pad_token is None


def test_progress_reaches_its_end(model: Any) -> None:
    seen: list[tuple[int, int, str]] = []
    harness.run(
        model.module, model.tokenizer, "demo", limit=4, progress=lambda *step: seen.append(step)
    )
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1] >= 3 * 4 + 2 * 4 * 2
    assert {step[2] for step in seen} == {"writing answers", "scoring choices"}


@pytest.mark.parametrize("after", [0, 3, 30])
def test_stop(after: int, model: Any) -> None:
    asked = iter(range(10**6))
    with pytest.raises(Stopped, match="stopped while"):
        harness.run(
            model.module, model.tokenizer, "demo", limit=7, should_stop=lambda: next(asked) >= after
        )
    assert len(harness.run(model.module, model.tokenizer, "demo_p3", limit=2)) == 1


def test_quiet_and_nothing_left_behind(model: Any, capfd: pytest.CaptureFixture[str]) -> None:
    level, environment = logging.getLogger("lm_eval").level, dict(os.environ)
    capfd.readouterr()
    harness.run(model.module, model.tokenizer, "demo", limit=2)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lm_eval").level == level
    assert dict(os.environ) == environment


def test_a_short_context_is_said(build: Build, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"context is too short for this task: .*\(64\)"):
        harness.run(build("llama", max_position_embeddings=61), tokenizer, "demo_sni", limit=2)


def test_suites() -> None:
    assert list(harness.suites()) == ["demo"]
    assert harness.suites()["demo"].name == "demo"


def test_the_choices_of_the_demo_do_not_favour_an_index() -> None:
    for name in ("mathqa", "p3"):
        rows = [
            json.loads(line)
            for line in (harness_tasks.ROOT / f"assets/demo/data/{name}/test.jsonl")
            .read_text()
            .splitlines()
        ]
        first = sum(row["answer"] == 0 for row in rows)
        expected = sum(1 / len(row["choices"]) for row in rows)
        assert abs(first - expected) < 3 * math.sqrt(len(rows)) / 2


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of three folders instead of all: reading the whole registry takes 6 to 20 s."""
    from lm_eval.tasks import TaskManager

    root = Path(sys.modules["lm_eval"].__file__ or "").parent / "tasks"
    folders = [root / name for name in ("gsm8k", "humaneval", "openbookqa")]
    index = dict(TaskManager(include_path=folders, include_defaults=False).task_index)
    monkeypatch.setattr(harness_tasks, "_registry", lambda: index)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo_cto", r"unknown task 'demo_cto'\. Did you mean demo_cot"),
        ("/etc/passwd", r"unknown task '/etc/passwd'\. Suites: demo"),
        ("evaluation/suites/demo/demo_p3.yaml", "unknown task"),
        ("humaneval", "task 'humaneval' runs code that the model writes, which is refused"),
        (
            "gsm8k",
            "task gsm8k needs the data set openai/gsm8k, which is neither in the local cache nor",
        ),
        (" , ", r"no task was named\. Give a suite \(demo\)"),
    ],
)
def test_refusals(name: str, message: str, model: Any, registry: None) -> None:
    with pytest.raises(TaskError, match=message):
        harness.run(model.module, model.tokenizer, name, limit=2)


TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["a", "b", "c"]
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_a_users_own_task(model: Any, tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w") as file:
        csv.writer(file).writerows([["question", "label"], ["one", 0], ["two", 1], ["three", 2]])
    text = TASK.replace("path: json", "path: csv").replace("DATA", str(tmp_path / "rows.csv"))
    (tmp_path / "mine.yaml").write_text(text)
    with contextlib.suppress(KeyError):
        (score,) = harness.run(model.module, model.tokenizer, "mine", include=[tmp_path])
    assert (score.task, score.n) == ("mine", 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("task: mine\ndoc_to_text: !function utils.text\n", "!function"),
        ("task: mine\nmetric_list:\n  - metric: {deep: [!function utils.text]}\n", "!function"),
        ("task: mine\nclass: x.Y\n", "class"),
        ("task: mine\ninclude: hidden/base\n", "!function"),
    ],
)
def test_task_files_that_run_code_are_refused(
    text: str, reason: str, model: Any, tmp_path: Path
) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "base").write_text("doc_to_text: !function utils.text\n")
    (tmp_path / "utils.py").write_text("raise SystemExit('ran')")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(TaskError, match=f"holds {reason}, which runs Python code"):
        harness.run(model.module, model.tokenizer, "mine", include=[tmp_path])


def test_missing_demo_data(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_tasks, "ROOT", tmp_path)
    with pytest.raises(
        TaskError, match=r"the data of demo cannot be read: .* For suite demo, run: dem demo build"
    ):
        harness.run(model.module, model.tokenizer, "demo", limit=2)


def test_limit(model: Any) -> None:
    with pytest.raises(TaskError, match="limit is 0; expected at least 1"):
        harness.run(model.module, model.tokenizer, "demo", limit=0)
