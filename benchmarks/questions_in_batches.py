"""Claim: questions asked in batches get the same answers in at most half the time.

    python -m benchmarks.questions_in_batches [--rounds 3] [--questions 6] [--demo FOLDER]

The composition of a demo's recipe.yml, in float32, answers the first test questions of every
dataset with at most 64 tokens each: one question after another, as the page does; by `generate` of
transformers with padding on the left, a batch for each dataset; and by `generate_many`, which rows
leave when they have ended. With --demo the folder is another one, such as `dem real path`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine

MOST = 64
"""The most tokens of an answer."""
TARGET = 0.5


def main(argv: Sequence[str] | None = None) -> None:
    """Ask in three ways in turn, and print a table."""
    demo = {"type": Path, "default": machine.DEMO, "help": "a folder with recipe.yml and data/"}
    questions = {"type": int, "default": 6, "help": "questions of each dataset (default: 6)"}
    options = machine.begin(__file__, __doc__, argv, rounds=3, demo=demo, questions=questions)
    import torch

    from evaluation.generation import generate, generate_many
    from evaluation.model import load
    from merging import LiveModel, in_memory, open_recipe, read_recipe

    recipe = read_recipe(options.demo / "recipe.yml")
    base, vectors = open_recipe(recipe)
    loaded = load(options.demo / "base", checkpoint=base, dtype=torch.float32)
    live = LiveModel(loaded.module, in_memory(base), vectors, loaded.views)
    live.apply(replace(recipe, out_dtype="float32"))
    model, tokenizer = loaded.module, loaded.tokenizer
    written = tokenizer.chat_template is not None
    sets = _prompts(options.demo / "data", options.questions, tokenizer)
    prompts = [prompt for each in sets for prompt in each]
    how = {"max_new_tokens": MOST, "written": written}
    said: dict[str, list[str]] = {}

    def ask(name: str) -> None:
        if name == "one at a time":
            said[name] = ["".join(generate(model, tokenizer, each, **how)) for each in prompts]
        elif name == "generate":
            said[name] = [text for each in sets for text in _padded(model, tokenizer, each)]
        else:
            said[name] = generate_many(model, tokenizer, prompts, **how)

    names = ("one at a time", "generate", "in batches")
    costs = machine.in_turn(
        options.rounds, {name: partial(machine.timed, partial(ask, name)) for name in names}
    )
    alone = said["one at a time"]
    # One more for the token that ends an answer.
    tokens = sum(min(MOST, len(tokenizer(text)["input_ids"]) + 1) for text in alone)
    print(f"{len(prompts)} questions, {tokens} tokens of answers\n")
    rows = []
    for row in machine.against(costs, "one at a time", "in batches", TARGET):
        speed = machine.spread([tokens / cost.seconds for cost in costs[row[0]]]).text(".1f")
        same = sum(a == b for a, b in zip(said[row[0]], alone, strict=True))
        cpu = machine.ratio(costs[row[0]], costs["one at a time"], "cpu").text()
        rows.append([*row[:2], speed, row[2], cpu, f"{same} of {len(alone)}", row[3]])
    columns = ["asked", "seconds", "tokens/s", "/ one at a time", "of CPU seconds", "same answers"]
    columns.append("target")
    machine.show(columns, rows)


def _prompts(data: Path, count: int, tokenizer: Any) -> list[list[str]]:
    """Return the first prompts of each dataset, as the tokenizer's chat template writes them."""
    sets = []
    for file in sorted(data.glob("*/test.jsonl")):
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()[:count]]
        sets.append([_prompt(row, tokenizer) for row in rows])
    return sets


def _prompt(row: dict[str, Any], tokenizer: Any) -> str:
    if "prompt" in row:
        return str(row["prompt"])
    return str(
        tokenizer.apply_chat_template(
            row["messages"][:1], add_generation_prompt=True, tokenize=False
        )
    )


def _padded(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Return the answers by transformers' `generate`, with the same products as the others."""
    import torch

    from evaluation.cpu_products import CpuProducts

    tokenizer.padding_side = "left"
    special = tokenizer.chat_template is None
    asked = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=special)
    kept = {key: asked[key] for key in ("input_ids", "attention_mask")}
    with torch.inference_mode(), CpuProducts():
        made = model.generate(**kept, max_new_tokens=MOST, do_sample=False)
    return list(tokenizer.batch_decode(made[:, kept["input_ids"].shape[1] :], True))


if __name__ == "__main__":
    main()
