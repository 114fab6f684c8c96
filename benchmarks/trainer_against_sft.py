"""Claim: training a stage takes at most 1.05 times as long as trl's SFTTrainer on the same data.

    make .venv-trl/made
    python -m benchmarks.trainer_against_sft [--rounds 3] [--steps 20] [--demo FOLDER]

A Llama of 1.9 million parameters trains in float32 on the CPU, with 32 examples of about 50 tokens
per update, prompts and completions, drawn at random by each tool. Both have AdamW, the cosine
schedule and the clipping that they have by default, without checkpointing. Each run has a process
of its own. Only the updates are timed, from the end of the first to the end of the last but one.

With --demo the base and the chats are those of a folder with base/ and data/, such as `dem real
path`, with 4 examples per update; all weights are trained.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

TRL = machine.ROOT / ".venv-trl" / "bin" / "python"
RATE, BATCH, FEW, LONGEST = 6e-4, 32, 4, 512

SFT = """
import json, sys, time
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
base, data, steps, batch, rate, longest, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
class Watch(TrainerCallback):
    times = []
    def on_step_end(self, *args, **more):
        self.times.append(time.perf_counter())
config = SFTConfig(
    output_dir=data + ".out", max_steps=steps, per_device_train_batch_size=batch,
    learning_rate=rate, lr_scheduler_type="cosine", warmup_steps=round(0.05 * steps),
    weight_decay=0.01, adam_beta2=0.95, max_length=longest, bf16=False, use_cpu=True,
    gradient_checkpointing=False, report_to=[], save_strategy="no", logging_strategy="no",
    disable_tqdm=True, dataloader_pin_memory=False,
)
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
    processing_class=AutoTokenizer.from_pretrained(base),
    args=config,
    train_dataset=Dataset.from_list(json.load(open(data))),
    callbacks=[Watch()],
)
trainer.train()
print(json.dumps(Watch.times))
"""

OURS = """
import json, sys, time
from pathlib import Path
import torch
from corpus.records import record
from training.run.finetune import run
from training.stage import Stage
base, data, steps, batch, rate, longest, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
times = []
examples = tuple(record(row, "data") for row in json.load(open(data)))
stage = Stage(
    base=Path(base), examples=examples, steps=steps, batch=batch, rate=rate, max_length=longest,
    precision="fp32", device="cpu",
)
run(
    stage, Path(data + ".ours"),
    should_stop=lambda: bool(times.append(time.perf_counter())),
)
print(json.dumps(times))
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run both in turn, and print a row."""
    steps = {"type": int, "default": 20, "help": "updates per run (default: 20)"}
    demo = {"type": Path, "help": "a folder with base/ and data/ (default: a tiny model)"}
    options = machine.begin(__file__, __doc__, argv, rounds=3, steps=steps, demo=demo)
    if not TRL.exists():
        raise SystemExit(f"{TRL} does not exist. Install trl: make .venv-trl/made")
    with tempfile.TemporaryDirectory() as scratch:
        costs = machine.in_turn(
            options.rounds,
            {
                "stage": lambda: _run(sys.executable, OURS, Path(scratch), options),
                "SFTTrainer": lambda: _run(str(TRL), SFT, Path(scratch), options),
            },
        )
    ratio = machine.ratio(costs["stage"], costs["SFTTrainer"])
    took = [machine.seconds(each).text(".3f") for each in costs.values()]
    row = ["an update", *took, ratio.text(), machine.target(ratio.median, 1.05)]
    machine.show(["seconds", *costs, "stage / SFTTrainer", "target"], [row])


def _run(python: str, script: str, scratch: Path, options: Any) -> machine.Cost:
    """Train in a process of its own, and return the seconds of an update."""
    import torch

    base, batch = (options.demo / "base", FEW) if options.demo else (scratch / "base", BATCH)
    if not (scratch / "data.json").exists():
        rows = _chats(options.demo) if options.demo else _make_demo(base)
        (scratch / "data.json").write_text(json.dumps(rows), "utf-8")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        data = Path(folder) / "data.json"
        data.write_text((scratch / "data.json").read_text("utf-8"), "utf-8")
        threads = torch.get_num_threads()
        given = [str(base), str(data), options.steps, batch, RATE, LONGEST, threads]
        done = subprocess.run(
            [python, "-c", script, json.dumps(given)],
            check=True, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    times = json.loads(done.stdout.splitlines()[-1])[: options.steps - 1]
    return machine.Cost((times[-1] - times[0]) / (len(times) - 1))


def _chats(demo: Path) -> list[dict[str, Any]]:
    """Return the training data of a folder as both tools read it: only the answer is learned."""
    lines = [
        json.loads(line)["messages"]
        for file in sorted(demo.glob("data/*/train.jsonl"))
        for line in file.read_text("utf-8").splitlines()
    ]
    return [{"prompt": turns[:1], "completion": turns[1:]} for turns in lines]


def _make_demo(base: Path) -> list[dict[str, Any]]:
    """Make the tiny base, and return its data."""
    from corpus.demo import datasets
    from workbench.demo.blank_base import write_blank

    examples = [example for splits in datasets(0).values() for example in splits["train"]]
    write_blank(base, [each.prompt + each.completion for each in examples])
    return [{"prompt": each.prompt, "completion": each.completion} for each in examples]


if __name__ == "__main__":
    main()
