"""Refuses a stage that needs an optional package, where it is missing or cannot run."""

from __future__ import annotations

import importlib.util

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
        TrainingError: a package is missing, or cannot run here; the message names the setting.
    """
    if stage.optimiser in OF_BITSANDBYTES:
        _check_installed(
            f'optimiser is "{stage.optimiser}"',
            "bitsandbytes",
            "give another optimiser, such as adamw_torch_fused or adafactor",
        )
    if stage.base_dtype == "nf4":
        _check_four_bit(sharded)
    if stage.liger:
        if device == "cpu":
            raise TrainingError(
                "liger is true, and its kernels run on accelerators only; this training is on the "
                "CPU. Leave liger out."
            )
        _check_installed("liger is true", "liger-kernel", "leave liger out")
    for name in stage.report_to:
        _check_installed(f"report_to names {name}", name, f"leave {name} out")


def _check_installed(reason: str, package: str, otherwise: str) -> None:
    """Refuses a package that is not installed."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise TrainingError(
            f"{reason}, which needs the package {package}, and it is not installed. "
            f"Install it (pip install {package}), or {otherwise}."
        )


def _check_four_bit(sharded: bool) -> None:
    """Refuses 4-bit weights where bitsandbytes cannot hold them."""
    otherwise = 'give base_dtype="bfloat16"'
    _check_installed('base_dtype is "nf4"', "bitsandbytes", otherwise)
    if sharded:
        raise TrainingError(
            'base_dtype is "nf4", and the processes share one copy of the model (FSDP), which '
            "cannot split 4-bit weights. Start them without FSDP, each with a copy of its own, or "
            f"{otherwise}."
        )
    from transformers.integrations import validate_bnb_backend_availability

    try:
        validate_bnb_backend_availability(raise_exception=True)
    # ImportError and OSError for a package whose native part does not load.
    except (ImportError, OSError, RuntimeError) as error:
        raise TrainingError(
            f'base_dtype is "nf4", which bitsandbytes cannot run here: {error} '
            f"{otherwise[0].upper()}{otherwise[1:]}."
        ) from None
