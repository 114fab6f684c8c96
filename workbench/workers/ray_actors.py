"""Workers that are actors of a Ray cluster. Each keeps a model open while the search runs."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from workbench.errors import SessionError
from workbench.workers.executor import Executor, OpenBench, Seat, WorkerLost
from workbench.workers.unit import Unit, UnitResult

ANSWER_SECONDS = 6.0
"""How long an address may take to answer."""
AUTO = "auto"
"""The cluster that runs on this machine."""


class RayActors(Executor):
    """Some actors, spread over the nodes; on a cluster with GPUs each has one of them.

    The nodes see the models and the data by the same paths, and have this package.

    Args:
        address: HOST:PORT of the head node, or "auto".
        count: how many actors.
        open_bench: opens what measures, in the actor.

    Raises:
        SessionError: Ray is not installed, the address does not answer, or the cluster is too
            small.
    """

    def __init__(self, address: str, count: int, open_bench: OpenBench) -> None:
        try:
            import ray
        except ImportError:
            raise SessionError(
                "--ray needs the package ray: pip install 'dem-workbench[ray]'."
            ) from None
        if address != AUTO:
            check_answers(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError) as error:
            raise SessionError(
                f"--ray is {address!r}, and Ray cannot join that cluster: {error}"
            ) from None
        self.width, self._open_bench = count, open_bench
        self._gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
        self._check_size()
        self._idle: list[Any] = []
        self._actors = 0
        self._waiting: deque[Unit] = deque()
        # Unit -> the actor that measures it and the answer that will come.
        self._running: dict[str, tuple[Any, Any]] = {}
        self._ended: dict[str, UnitResult | WorkerLost] = {}
        self._closed = False

    def submit(self, unit: Unit) -> None:
        """See Executor."""
        self._ended.pop(unit.id, None)
        self._waiting.append(unit)
        self._look()

    def poll(self, unit: Unit) -> bool:
        """See Executor."""
        self._look()
        return unit.id in self._ended

    def result(self, unit: Unit) -> UnitResult:
        """See Executor."""
        ended = self._ended[unit.id]
        if isinstance(ended, WorkerLost):
            raise ended
        return ended

    def cancel(self, unit: Unit) -> None:
        """See Executor. An actor that measures it is ended: a call cannot be stopped otherwise."""
        import ray

        self._ended.pop(unit.id, None)
        self._waiting = deque(each for each in self._waiting if each.id != unit.id)
        if unit.id in self._running:
            actor, _ = self._running.pop(unit.id)
            ray.kill(actor)
            self._actors -= 1

    def close(self) -> None:
        """See Executor."""
        import ray

        if not self._closed:
            self._closed = True
            # The actors belong to this driver, and end with it.
            ray.shutdown()

    def _look(self) -> None:
        """Takes the answers that came, and gives waiting units to idle actors."""
        import ray

        for key, (actor, answer) in list(self._running.items()):
            if not ray.wait([answer], timeout=0)[0]:
                continue
            del self._running[key]
            try:
                self._ended[key] = UnitResult.from_json(ray.get(answer))
                self._idle.append(actor)
            except ray.exceptions.RayError as error:
                # After an error inside it too: what a measurement left behind is not known.
                ray.kill(actor)
                self._actors -= 1
                words = str(error).strip().split("\n")[-1].strip()
                self._ended[key] = WorkerLost(f"An actor of Ray ended: {words}")
        while self._waiting and (self._idle or self._actors < self.width):
            actor = self._idle.pop() if self._idle else self._started()
            unit = self._waiting.popleft()
            self._running[unit.id] = actor, actor.measure.remote(unit.to_json())

    def _started(self) -> Any:
        """Starts an actor."""
        import ray

        self._actors += 1
        make = ray.remote(num_cpus=1, num_gpus=self._gpus, scheduling_strategy="SPREAD")
        return make(_Actor).remote(self._open_bench)

    def _check_size(self) -> None:
        """Compares the cluster with what the actors need, because they would wait for ever."""
        import ray

        what = "GPU" if self._gpus else "CPU"
        there = int(ray.cluster_resources().get(what, 0))
        if there < self.width:
            ray.shutdown()
            raise SessionError(
                f"--workers is {self.width}, each needs a {what}, and the cluster has {there}. "
                "Give fewer workers, or add nodes."
            )


class _Actor:
    """A worker inside the cluster."""

    def __init__(self, open_bench: OpenBench) -> None:
        self._stack = ExitStack()
        scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        # Ray shows each actor only its own device, so that one has the number 0.
        self._bench = self._stack.enter_context(open_bench(Seat(0, 1, scratch)))

    def measure(self, text: str) -> str:
        """Measures a unit that came as JSON, and returns the result as JSON."""
        return self._bench.measure(Unit.from_json(text), lambda: False).to_json()


def check_answers(address: str) -> None:
    """Checks that a cluster of Ray answers, because ray.init would wait much longer.

    Args:
        address: HOST:PORT.

    Raises:
        SessionError: it is no address, or nothing or something else answers there.
    """
    begin = time.monotonic()
    host, _, port = address.rpartition(":")
    if not (host and "/" not in host and port.isdigit() and int(port) < 65536):
        raise SessionError(
            f"--ray is {address!r}, expected HOST:PORT of the head node, such as 10.0.0.1:6379, or "
            f"{AUTO}."
        )
    advice = "Start one with `ray start --head`, and give the address that it prints."
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS / 3).close()
    except OSError as error:
        raise SessionError(
            f"--ray is {address!r}, and nothing answers there: {error}. {advice}"
        ) from None
    line = [sys.executable, "-W", "ignore", "-c", _ASK, address]
    left = ANSWER_SECONDS - (time.monotonic() - begin)
    try:
        # In a child, because the client of Ray cannot be interrupted and prints its own warnings.
        asked = subprocess.run(line, capture_output=True, text=True, timeout=left)
        problem = "" if asked.returncode == 0 else asked.stderr.strip().split("\n")[-1]
    except subprocess.TimeoutExpired:
        problem = f"no answer of Ray within {ANSWER_SECONDS:g} s"
    if problem:
        raise SessionError(
            f"--ray is {address!r}, and no cluster of Ray is there: {problem}. {advice}"
        )


_ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
"""What `ray health-check` does first; that command takes seconds longer to start."""
