"""Runs in .venv-influence, without this project: gradients of single examples by bergson 2.5.1.

    python run_bergson.py request.json answer.npz

The request holds a folder with a causal language model or a LoRA adapter, examples as (token ids,
which of them are learned), the most tokens of a batch, and the size of the projection: 0 for none.
With a projection, `target` says whether each matrix is projected alone ("per_module") or all of
them together ("global"). The answer has an array (examples, numbers) for each module, and the CPU
seconds from the first batch until the index is on the disk.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from bergson.collection import collect_gradients
from bergson.config import DataConfig, IndexConfig
from bergson.data import allocate_batches, load_gradients
from bergson.utils.worker_utils import create_processor, setup_model_and_peft
from datasets import Dataset


def main(request: Path, answer: Path) -> None:
    asked = json.loads(request.read_text())
    examples = asked["examples"]
    data = Dataset.from_dict(
        {
            "input_ids": [ids for ids, _ in examples],
            "labels": [
                [token if used else -100 for token, used in zip(ids, learned, strict=True)]
                for ids, learned in examples
            ],
            "length": [len(ids) for ids, _ in examples],
        }
    )
    settings = IndexConfig(
        str(answer.with_suffix(".index")),
        model=asked["model"],
        precision="fp32",
        data=DataConfig(),
        token_batch_size=asked["batch_tokens"],
        projection_dim=asked["size"],
        projection_target=asked["target"],
        loss_reduction="mean",
    )
    model, modules = setup_model_and_peft(settings)
    processor = create_processor(model, settings, modules)
    start = time.process_time()
    collect_gradients(
        model,
        data,
        processor,
        settings,
        batches=allocate_batches(data["length"][:], settings.token_batch_size),
        target_modules=modules,
    )
    seconds = time.process_time() - start
    # The caller of collect_gradients is to rename the folder; here it is only read.
    sizes = json.loads((settings.partial_run_path / "info.json").read_text())["grad_sizes"]
    whole = np.array(load_gradients(settings.partial_run_path), np.float32)
    parts = np.split(whole, np.cumsum(list(sizes.values()))[:-1], axis=1)
    np.savez(answer, seconds=seconds, **dict(zip(sizes, parts, strict=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
