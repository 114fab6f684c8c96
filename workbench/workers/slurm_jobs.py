"""Workers that are jobs of Slurm, or of this machine, started by submitit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from workbench.errors import SessionError
from workbench.workers.executor import OpenBench, Seat
from workbench.workers.serve import serve
from workbench.workers.shared_folder import LEAVE_SECONDS, SharedFolder, shared_threads

LOCAL = "local"
"""Stands for this machine in the place of a partition."""
MINUTES = 24 * 60
"""The time limit of a job, unless SBATCH_TIMELIMIT says otherwise. submitit's own is 5 minutes. A
job that reaches it costs the unit that it measures, and another job takes its place."""


class SlurmJobs(SharedFolder):
    """Some jobs of one partition. Each keeps a model open and takes unit after unit.

    One job for each unit would load the model again and wait in the queue again.

    Args:
        root, count, open_bench: see SharedFolder; the folder is on a disk that the nodes share.
        partition: of Slurm; "local" for processes of this machine.

    Raises:
        SessionError: submitit is not installed, or there is no Slurm here.
    """

    def __init__(self, root: Path, count: int, open_bench: OpenBench, partition: str) -> None:
        try:
            import submitit
        except ImportError:
            raise SessionError(
                "--submitit needs the package submitit: pip install 'dem-workbench[submitit]'."
            ) from None
        local = self._local = partition == LOCAL
        super().__init__(root, count, open_bench, shared_threads(count) if local else 0)
        try:
            self._jobs = submitit.AutoExecutor(
                folder=self.folder / "jobs", cluster=LOCAL if local else "slurm"
            )
        except RuntimeError as error:
            self.close()
            raise SessionError(
                f"--submitit is {partition!r}, and Slurm is not available here: {error}. Run this "
                "on a login node of the cluster, or give --submitit local."
            ) from None
        more = {} if local else {"slurm_partition": partition}
        self._jobs.update_parameters(name="dem-search", timeout_min=MINUTES, **more)

    def _start(self, name: str, seat: Seat) -> Any:
        from submitit.core.utils import FailedJobError

        try:
            return self._jobs.submit(serve, self.folder, name, seat, self._open_bench)
        except FailedJobError as error:
            raise SessionError(f"Slurm refused the job: {error}") from None

    def _end_of(self, handle: Any) -> str:
        if not handle.done():
            return ""
        said = (handle.stderr() or "").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        return f"Job {handle.job_id} ended ({handle.state}). {last}".strip()

    def _end(self, handle: Any) -> None:
        if handle.done():
            return
        handle.cancel()
        # A process of this machine ends at once; a queue of Slurm may take a minute to say so.
        last = time.monotonic() + LEAVE_SECONDS
        while self._local and not handle.done() and time.monotonic() < last:
            time.sleep(0.05)
