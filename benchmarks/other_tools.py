"""Claim: the README's table of what this workbench and other merging tools do. Every cell is run.

    make .venv-mergekit/made .venv-fusion-bench/made
    python -m benchmarks.other_tools [--size 1.2B] [--rounds 1]

Seconds and memory are of cold processes that merge a base and five full checkpoints in bfloat16
by task arithmetic and write the result: `dem merge`, `mergekit-yaml`, and a script that calls
fusion_bench's own pool and algorithm, because its command line needs a configuration for each
merge. The other rows are run on the demo. PEFT merges adapters; what it says when it is given a
full checkpoint is its cell.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import copying, machine, shapes

EXPERTS = 5
DEMO = machine.DEMO
OURS = Path(sys.executable).parent
MERGEKIT, FUSION = (
    machine.ROOT / name / "bin" for name in (".venv-mergekit", ".venv-fusion-bench")
)
TOOLS = ("DEM workbench", "mergekit", "PEFT", "fusion_bench")

FUSION_MERGE = """
import sys
from fusion_bench.method import TaskArithmeticAlgorithm
from fusion_bench.modelpool import CausalLMPool
out, factor, base, *tuned = sys.argv[1:]
models = {"_pretrained_": base} | {f"m{n}": path for n, path in enumerate(tuned)}
pool = CausalLMPool(models, tokenizer=None, load_lazy=False)
merged = TaskArithmeticAlgorithm(scaling_factor=float(factor)).run(pool)
merged.save_pretrained(out)
"""
PEFT_FULL = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, tuned = sys.argv[1:]
PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tuned)
"""
PEFT_ZERO = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
out, base, first, second = sys.argv[1:]
loaded = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
model = PeftModel.from_pretrained(loaded, first, "a")
model.load_adapter(second, "b")
model.add_weighted_adapter(["a", "b"], [0.0, 0.0], "sum", combination_type="cat")
model.set_adapter("sum")
model.merge_and_unload().save_pretrained(out)
"""
PEFT_MISSPELT = PEFT_ZERO.replace('[0.0, 0.0], "sum"', 'wieghts=[0.5, 0.5], adapter_name="sum"')


def main(argv: Sequence[str] | None = None) -> None:
    """Run every cell and print the table."""
    options = machine.begin(__file__, __doc__, argv, rounds=1, size="0.5B")
    for folder in (MERGEKIT, FUSION):
        if not folder.exists():
            raise SystemExit(f"{folder} is not there. Make it: make {folder.parent.name}/made")
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        rows = [*_costs(options), _zero(out), _mixed(out), _misspelt(out)]
    print(f"{shapes.parameters(options.size):,} parameters × (1 + {EXPERTS}); {_versions()}\n")
    machine.show(["what", *TOOLS], rows)


def _costs(options: argparse.Namespace) -> list[list[str]]:
    """Seconds and memory of one merge of full checkpoints."""
    with shapes.checkpoints(options.size, EXPERTS, options.weights) as folder:
        recipe, out = shapes.recipe(folder, EXPERTS), folder / "out"
        base, *tuned = (file.parent for file in shapes.files(folder, EXPERTS))
        words: dict[str, list[str | Path]] = {
            "DEM workbench": [OURS / "dem", "merge", recipe, out],
            "mergekit": [
                *(MERGEKIT / "mergekit-yaml", "--no-copy-tokenizer", "--quiet", recipe, out)
            ],
            "fusion_bench": [FUSION / "python", "-c", FUSION_MERGE, out, "0.3", base, *tuned],
        }

        def merged(name: str) -> Callable[[], machine.Cost]:
            def run() -> machine.Cost:
                copying.copy(shapes.files(folder, EXPERTS), None, 1)  # all find the page cache warm
                cost = machine.cold(words[name], flush=None if name == "DEM workbench" else out)
                shutil.rmtree(out)
                return cost

            return run

        costs = machine.in_turn(options.rounds, {name: merged(name) for name in words})
        said = _run([OURS / "python", "-c", PEFT_FULL, base, tuned[0]]).stderr
    assert "adapter_config.json" in said, said
    seconds = {name: machine.seconds(of).text(".1f") for name, of in costs.items()}
    memory = {name: machine.peak_mb(of).text(",.0f") for name, of in costs.items()}
    refused = {"PEFT": "adapters only"}
    return [
        ["base + 5 full checkpoints, seconds", *((seconds | refused)[tool] for tool in TOOLS)],
        ["peak memory, MB", *((memory | refused)[tool] for tool in TOOLS)],
    ]


def _zero(out: Path) -> list[str]:
    """Whether all ω = 0 gives the base's weights, bit for bit."""
    models = {"cot": DEMO / "cot", "sni": DEMO / "sni"}
    recipe = _recipe(out / "zero.yml", models, "weight: 0.0")
    adapters = [DEMO / "p3", DEMO / "dialog"]
    runs: list[list[str | Path]] = [
        [OURS / "dem", "merge", recipe, out / "zero0"],
        [MERGEKIT / "mergekit-yaml", "--quiet", recipe, out / "zero1"],
        [OURS / "python", "-c", PEFT_ZERO, out / "zero2", DEMO / "base", *adapters],
        [
            FUSION / "python",
            "-c",
            FUSION_MERGE,
            out / "zero3",
            "0.0",
            DEMO / "base",
            *models.values(),
        ],
    ]
    return [
        "all ω = 0 gives the base, bit for bit",
        *(_same_bits(words, out / f"zero{n}") for n, words in enumerate(runs)),
    ]


def _same_bits(words: list[str | Path], out: Path) -> str:
    from safetensors.torch import load_file

    done = _run(words)
    if done.returncode:
        return f"fails: {_last_line(done.stderr)}"
    base, merged = (load_file(folder / "model.safetensors") for folder in (DEMO / "base", out))
    different = [
        name
        for name, values in base.items()
        if name not in merged or merged[name].numpy().tobytes() != values.numpy().tobytes()
    ]
    return "yes" if not different else f"no: {len(different)} of {len(base)} tensors differ"


def _mixed(out: Path) -> list[str]:
    """Whether a full checkpoint and an adapter merge in one go."""
    models = {"cot": DEMO / "cot", "p3": f"{DEMO / 'base'}+{DEMO / 'p3'}"}
    recipe = _recipe(out / "mixed.yml", models, "weight: 0.5")
    in_cache = [MERGEKIT / "mergekit-yaml", "--quiet", "--lora-merge-cache", out / "cache"]
    runs: list[list[str | Path]] = [
        [OURS / "dem", "merge", recipe, out / "mixed0"],
        # mergekit writes the adapter's merged model to a folder first, which must be named.
        [*in_cache, recipe, out / "mixed1"],
        [OURS / "python", "-c", PEFT_FULL, DEMO / "base", DEMO / "cot"],
        [
            FUSION / "python",
            "-c",
            FUSION_MERGE,
            out / "mixed3",
            "0.5",
            DEMO / "base",
            DEMO / "cot",
            DEMO / "p3",
        ],
    ]
    return [
        "full checkpoint and LoRA adapter in one merge",
        *("no" if _run(words).returncode else "yes" for words in runs),
    ]


def _misspelt(out: Path) -> list[str]:
    """What comes of a misspelt setting."""
    recipe = _recipe(out / "misspelt.yml", {"cot": DEMO / "cot"}, "weight: 0.5, wieght: 0.7")
    adapters = [DEMO / "p3", DEMO / "dialog"]
    runs: list[list[str | Path]] = [
        [OURS / "dem", "merge", recipe, out / "misspelt0"],
        [MERGEKIT / "mergekit-yaml", "--quiet", recipe, out / "misspelt1"],
        [OURS / "python", "-c", PEFT_MISSPELT, out / "misspelt2", DEMO / "base", *adapters],
        [FUSION / "fusion_bench", "method=task_arithmetic", "method.scaling_facto=0.3"],
    ]
    return ["a misspelt setting", *(_told(words) for words in runs)]


def _told(words: list[str | Path]) -> str:
    done = _run(words)
    if done.returncode == 0:
        return "ignored"
    return (
        "error with suggestion"
        if "did you mean" in (done.stderr + done.stdout).lower()
        else "error"
    )


def _recipe(file: Path, models: dict[str, str | Path] | dict[str, Path], parameters: str) -> Path:
    lines = [f"  - {{model: {path}, parameters: {{{parameters}}}}}" for path in models.values()]
    head = ["merge_method: task_arithmetic", f"base_model: {DEMO / 'base'}", "models:"]
    file.write_text("\n".join([*head, *lines]) + "\n", "utf-8")
    return file


def _run(words: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, cwd=machine.ROOT, timeout=900
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:60]


def _versions() -> str:
    known = []
    for python, names in (
        (MERGEKIT / "python", ("mergekit",)),
        (OURS / "python", ("peft",)),
        (FUSION / "python", ("fusion-bench",)),
    ):
        for name in names:
            code = f"from importlib.metadata import version; print(version('{name}'))"
            known.append(f"{name} {_run([python, '-c', code]).stdout.strip()}")
    return ", ".join(known)


if __name__ == "__main__":
    main()
