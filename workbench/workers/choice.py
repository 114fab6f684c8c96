"""Makes the executor that a user asked for: processes here, actors of Ray, or jobs of Slurm."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import SessionError
from workbench.workers.executor import Executor, OpenBench


def executor_for(
    workers: int, ray: str, submitit: str, root: Path, open_bench: OpenBench
) -> Executor | None:
    """Returns what has units measured; None for one worker here, which is this process itself.

    Args:
        workers: how many units are measured at a time.
        ray: address of a cluster of Ray; "" for none.
        submitit: a partition of Slurm or "local"; "" for none.
        root: Workdir.units.
        open_bench: opens what measures, in a worker.

    Raises:
        SessionError: both engines are given, or the one that is given cannot be used.
    """
    if ray and submitit:
        raise SessionError(
            f"--ray is {ray!r} and --submitit is {submitit!r}, and a search has one engine. "
            "Give one of them."
        )
    if ray:
        from workbench.workers.ray_actors import RayActors

        return RayActors(ray, workers, open_bench)
    if submitit:
        from workbench.workers.slurm_jobs import SlurmJobs

        return SlurmJobs(root, workers, open_bench, submitit)
    if workers == 1:
        return None
    from workbench.workers.local_processes import LocalProcesses

    return LocalProcesses(root, workers, open_bench)
