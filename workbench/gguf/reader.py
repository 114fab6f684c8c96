"""The process that reads a GGUF file and writes a folder of safetensors.

    python -m workbench.gguf.reader '{"file": …, "out": …, "dtype": "float32", "memory": bytes}'

Its last line of output is JSON: {"facts": …} about the file, or {"refused": reason}. transformers
reads the weights and the tokenizer. What it would leave out in silence is looked for here: tensors
without a place in its module, and scaled positions.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from merging.errors import cause
from plumbing.units import size
from workbench.gguf.header import NAME, ROPE_FACTORS, Refused, field
from workbench.gguf.positions import set_positions
from workbench.gguf.tokenizer import save_tokenizer


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Carries out a request; returns the answer."""
    # Imported before the limit: libraries map more than they use.
    import gguf  # noqa: F401
    import psutil
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    most = psutil.Process().memory_info().vms + request["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        return {"facts": read(Path(request["file"]), Path(request["out"]), request["dtype"])}
    except Refused as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": _too_much(request["memory"])}
    # The file decides what goes wrong in the libraries that read it, so anything may be raised.
    except Exception as error:
        # Without what could steer a terminal: the text may quote the file.
        text = "".join(each for each in cause(error) if each.isprintable())
        if "memory" in text.lower():
            return {"refused": _too_much(request["memory"])}
        return {
            "refused": f"it is cut off, damaged, or of a kind that transformers cannot read "
            f"({type(error).__name__}: {text[:300]}). Compare its size with the original's."
        }


def _too_much(nbytes: int) -> str:
    return (
        f"reading it takes more than {size(nbytes)} of memory. Close other programs, or convert it "
        "on a machine with more memory."
    )


def read(file: Path, out: Path, dtype: str) -> dict[str, Any]:
    """Writes the model and the tokenizer of a file to `out`, and returns facts about the file.

    Raises:
        Refused: the model would not be the one in the file.
    """
    from gguf import GGUFReader

    content = GGUFReader(file)
    parts = field(content, "split.count")
    if parts is not None and parts > 1:
        raise Refused(
            f"it is one of {parts} parts. Join them (llama-gguf-split --merge), and convert the "
            "whole file."
        )
    types: Counter[str] = Counter()
    for tensor in content.tensors:
        types[tensor.tensor_type.name] += int(tensor.n_elements)
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NAME).symlink_to(file)
        model = _model(folder)
        _check_complete(content, model)
        set_positions(content, model.config, notes)
        _save(model, out, dtype)
        save_tokenizer(content, folder, out, notes)
    return {
        "architecture": field(content, "general.architecture"),
        "name": str(field(content, "general.name") or ""),
        "license": str(field(content, "general.license") or ""),
        "parameters": sum(types.values()),
        "types": dict(types),
        "notes": notes,
    }


def _model(folder: str) -> Any:
    """Returns transformers' model of the file, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    from merging.live.assemble import quiet_loading

    with quiet_loading():
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=NAME,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    # transformers fills them with random numbers.
    if missing := sorted(report["missing_keys"]):
        raise Refused(f"it has no weights for {', '.join(missing[:5])}, which the model needs.")
    return model


def _check_complete(content: Any, model: Any) -> None:
    """Refuses a file of which transformers has left tensors out, and weights that are no numbers.

    Tensors are renamed, split and joined on their way, but no weight is made or lost, so the
    numbers of weights tell.
    """
    stored = sum(int(each.n_elements) for each in content.tensors if each.name != ROPE_FACTORS)
    placed = sum(each.numel() for each in model.parameters())
    if stored != placed:
        raise Refused(
            f"it holds {stored:,} weights, and transformers' model {type(model).__name__} has a "
            f"place for {placed:,}, so the result would be another model."
        )
    for name, tensor in model.named_parameters():
        if not tensor.isfinite().all():
            raise Refused(f"{name} holds NaN or infinity, so the file is damaged.")


def _save(model: Any, out: Path, dtype: str) -> None:
    """Writes the weights and the configuration of a model.

    Raises:
        Refused: a value is too large for the dtype.
    """
    import numpy as np
    import torch

    from merging.live.assemble import quiet_loading

    # transformers does not save a model that comes from a GGUF file, so its weights are given to a
    # new one. Its class is the same, and its configuration knows nothing of the file.
    config = model.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    for name, value in vars(config).items():
        if isinstance(value, float):
            # In the file it is a float32: 9.999999747378752e-06 was 1e-05.
            setattr(config, name, float(str(np.float32(value))))
    config.dtype = getattr(torch, dtype)
    weights = {}
    for name, tensor in model.state_dict().items():
        weights[name] = tensor.to(config.dtype)
        if not weights[name].isfinite().all():
            raise Refused(f"{name} has values that {dtype} cannot hold. Give bfloat16 or float32.")
    with torch.device("meta"):
        fresh = type(model)(config)
    fresh.load_state_dict(weights, assign=True)
    fresh.tie_weights()
    fresh.generation_config = model.generation_config
    with quiet_loading():
        fresh.save_pretrained(out)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
