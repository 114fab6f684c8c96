"""One process of a real run of transformers' Trainer over gloo: records which examples each optimiser step sees.

python sampler_process.py FOLDER, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the environment;
test_sampler_trainer.py starts as many as WORLD_SIZE says. Writes FOLDER/<rank>.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from training.batching.group_sampler import GroupBlockSampler

BATCH = 2
GROUPS = [(7 * number) % 13 % 3 for number in range(67)]


class Line(torch.nn.Module):
    """A model of two numbers."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x, index):
        return {"loss": self.line(x).square().mean()}


class Epochs(TrainerCallback):
    """Sets the sampler's epoch as each begins."""

    def __init__(self, sampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **_):
        self.sampler.set_epoch(int(state.epoch))


class Watched(Trainer):
    """Draws with the sampler, and notes (epoch, step, indices) of each micro-batch."""

    def __init__(self, sampler, **settings):
        self.sampler, self.seen = sampler, []
        super().__init__(**settings)

    def _get_train_sampler(self, train_dataset=None):
        return self.sampler

    def compute_loss(self, model, inputs, **settings):
        self.seen.append((self.sampler._epoch, self.state.global_step, inputs["index"].tolist()))
        return super().compute_loss(model, inputs, **settings)


def train(folder, accumulation, processes, *, told=True, resume=None, **more):
    """One run of two epochs, or the rest of one: what this process saw."""
    sampler = GroupBlockSampler(GROUPS, BATCH * accumulation * processes, seed=1)
    settings = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=2,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        logging_strategy="no",
        use_cpu=True,
        **{"save_strategy": "no"} | more,
    )
    data = [{"x": torch.tensor([number / 67]), "index": number} for number in range(len(GROUPS))]
    callbacks = [Epochs(sampler)] if told else []
    trainer = Watched(sampler, model=Line(), args=settings, train_dataset=data, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.seen


def main():
    """All runs of this process."""
    folder, rank, processes = (
        Path(sys.argv[1]),
        int(os.environ["RANK"]),
        int(os.environ["WORLD_SIZE"]),
    )
    torch.set_num_threads(1)
    found = {str(count): train(folder / "none", count, processes) for count in (1, 2, 4)}
    saving = {"save_strategy": "steps", "save_steps": 1}
    found["whole"] = train(folder / "kept", 2, processes, **saving)
    steps = found["whole"][-1][1] + 1
    for name, told in (("resumed", True), ("untold", False)):
        at = folder / "kept" / f"checkpoint-{steps // 2 + 2}"
        found[name] = train(folder / name, 2, processes, told=told, resume=str(at))
    sampler = GroupBlockSampler(GROUPS, BATCH * processes, seed=1)
    found["order"] = list(sampler)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
