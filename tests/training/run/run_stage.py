"""Runs one pickled (stage, folder, resume, stop_at): what each process of a launch does. python run_stage.py FILE"""

import os
import pickle
import sys
from pathlib import Path

import torch

from training.run.finetune import TrainingStopped, run

torch.set_num_threads(1)
stage, folder, resume, stop_at = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 (the test wrote it)
asked: list[int] = []
told: list[int] = []
try:
    made = run(
        stage,
        folder,
        lambda *call: told.append(call[0]),
        resume=resume,
        should_stop=lambda: asked.append(1) or len(asked) == stop_at,
    )
    said = f"told {len(told)} examples {made.spent.examples} processes {made.spent.processes}"
except TrainingStopped:
    said = "stopped"
# A file each: lines on one pipe may mix
Path(f"{sys.argv[1]}.{os.environ['RANK']}").write_text(said, "utf-8")
