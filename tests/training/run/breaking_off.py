"""Runs stages, each in a process of its own that is killed at a given moment: python breaking_off.py FILE.

FILE holds pickled (stage, folder, moment, step) tuples. Printed is, per run, the signal that ended it as a negative number.
A killed process runs no handler, no `finally` and no flush, as when the machine takes it away.
"""

import os
import pickle
import signal
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel

import training.run.lora
import training.run.saved_state
import training.run.trainer
from training.run.finetune import run


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(step):
    """After the update of a step, before it is measured or saved."""
    return {
        "on_log": lambda point: die() if point.step == step and point.loss is not None else None
    }


def while_saving(step):
    """Half of the optimiser's file is on the disk, and nothing after it."""
    save = torch.save

    def torn(what, file, **more):
        save(what, file, **more)
        if f"checkpoint-{step}/optimizer" in str(file):
            os.truncate(file, Path(file).stat().st_size // 2)
            die()

    torch.save = torn
    return {}


def before_sealing(step):
    """Everything of a state is there but the word that it is whole."""
    write = training.run.saved_state.write_json

    def written(path, document):
        if path.parent.name == f"checkpoint-{step}":
            path.with_name("whole.json.partial").write_text("{", "utf-8")
            die()
        write(path, document)

    training.run.saved_state.write_json = written
    return {}


def before_removing(step):
    """A state is whole and the one before it is still there."""
    training.run.saved_state.shutil = type("Shutil", (), {"rmtree": staticmethod(die)})
    return {}


def while_writing(step):
    """The run is done, and its checkpoint half written."""
    PreTrainedModel.save_pretrained = lambda model, folder, **_: (Path(folder).mkdir(), die())
    return {}


MOMENTS = (at_step, while_saving, before_sealing, before_removing, while_writing)


def main(file):
    torch.set_num_threads(1)
    for stage, folder, moment, step in pickle.loads(Path(file).read_bytes()):  # noqa: S301 (the test wrote it)
        child = os.fork()
        if child == 0:
            more = {one.__name__: one for one in MOMENTS}[moment](step)
            run(stage, folder, resume=True, **more)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
