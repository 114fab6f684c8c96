"""Refuses a stage that needs an optional package, where it is missing or cannot run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from training.choices import OF_BITSANDBYTES
from training.errors import TrainingError
from training.stage import Stage


def check_packages(stage: Stage, device: str, *, sharded: bool) -> None:
    """Checks that the packages which a stage names are there and can run.

    Args:
        stage: the stage.
        device: where it trains, "cpu" or an accelerator such as "cuda:0".
        sharded: whether the processes share one copy of the model (FSDP).

    Raises:
        TrainingError: packages are missing, or cannot run here; the message names all settings.
    """
    if faults := list(_faults(stage, device, sharded)):
        raise TrainingError(" ".join(faults))


def _faults(stage: Stage, device: str, sharded: bool) -> Iterator[str]:
    """Yields a message for each setting that cannot be used."""
    if stage.optimiser in OF_BITSANDBYTES:
        yield from _missing(
            f'optimiser is "{stage.optimiser}"',
            "bitsandbytes",
            "give another optimiser, such as adamw_torch_fused or adafactor",
        )
    if stage.base_dtype == "nf4":
        yield from _without_four_bit(sharded)
    if stage.liger and device == "cpu":
        yield (
            "liger is true, and its kernels run on accelerators only; this training is on the CPU. "
            "Leave liger out."
        )
    elif stage.liger:
        yield from _missing("liger is true", "liger-kernel", "leave liger out")
    for name in stage.report_to:
        yield from _missing(f"report_to names {name}", name, f"leave {name} out")


def _missing(reason: str, package: str, otherwise: str) -> Iterator[str]:
    """Yields a message if a package is not installed."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        yield (
            f"{reason}, which needs the package {package}, and it is not installed. "
            f"Install it (pip install {package}), or {otherwise}."
        )


def _without_four_bit(sharded: bool) -> Iterator[str]:
    """Yields messages if bitsandbytes cannot hold 4-bit weights here."""
    otherwise = 'give base_dtype="bfloat16"'
    missing = list(_missing('base_dtype is "nf4"', "bitsandbytes", otherwise))
    yield from missing
    if sharded:
        yield (
            'base_dtype is "nf4", and the processes share one copy of the model (FSDP), which '
            "cannot split 4-bit weights. Start them without FSDP, each with a copy of its own, or "
            f"{otherwise}."
        )
    if missing:
        return
    from transformers.integrations import validate_bnb_backend_availability

    try:
        validate_bnb_backend_availability(raise_exception=True)
    # ImportError and OSError for a package whose native part does not load.
    except (ImportError, OSError, RuntimeError) as error:
        yield (
            f'base_dtype is "nf4", which bitsandbytes cannot run here: {error} '
            f"{otherwise[0].upper()}{otherwise[1:]}."
        )
