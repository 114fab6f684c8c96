"""Small benches for tests of executors: what they measure needs no model, and some die of it.

In a module of their own, because a worker finds its bench by the name of the module.
"""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from evaluation.records.loss_cache import Entry
from workbench.workers.unit import Unit, UnitResult


def unit_of(composition, data):
    """A unit that only these benches understand.

    Args:
        composition: what to do; see Plain.measure.
        data: a folder in which each measurement leaves a file.
    """
    return Unit("", str(data), {"ada": "examples of ada"}, composition)


def result_of(unit):
    loss = len(unit.composition) / 7
    entry = Entry("ada", loss, 0.1, 2, 5, (loss, 2 * loss), (2, 3))
    return UnitResult(unit.id, unit.composition, "base", "{}", {"examples of ada": entry})


class Plain:
    def __init__(self, seat):
        self.seat = seat

    def measure(self, unit, stale):
        from evaluation.errors import Stopped

        word, data = unit.composition.split()[0], Path(unit.data)
        measured = len(list(data.glob(f"{unit.id}*")))
        (data / f"{unit.id}-{measured}-{os.getpid()}").touch()
        if word == "kill" or (word == "kill-once" and not measured):
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "raise":
            raise RuntimeError("the device ran out of memory")
        while word == "wait":
            if stale():
                (data / "stopped").touch()
                raise Stopped("stale")
            time.sleep(0.02)
        return result_of(unit)


@contextmanager
def plain(seat):
    yield Plain(seat)


@contextmanager
def broken(seat):
    raise RuntimeError("no such device")
    yield
