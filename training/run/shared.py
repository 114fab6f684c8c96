"""What the steps of a plan share: a base that they leave unchanged, and the tokens of records.

shared = Shared()
run(first, out / "first", shared=shared)
run(second, out / "second", shared=shared)      # reads no weights if the first trained an adapter
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Hashable
from typing import Any

from corpus.tokens import Known
from training.run import memory
from training.run.base import PLAIN, Base, Held
from training.run.record import identity


class Shared:
    """Keeps one base in memory, and the tokens of every record that was encoded.

    A full fine-tune changes the weights, so it takes the module that is kept, and the next step
    reads the files again. Keeping a copy instead would take the memory of a second base and save
    half of that time. Adapters leave the weights as they are: all steps that train one use the
    same weights.
    """

    def __init__(self) -> None:
        self._module: Any = None
        self._key: Hashable = None
        self._known: dict[Hashable, Known] = {}

    def load(self, base: Base, held: Held = PLAIN, *, unchanged: bool) -> Any:
        """Returns the model of a base, with every parameter trainable that can be.

        Args:
            base: the opened base.
            held: how its weights are held.
            unchanged: whether the caller leaves the base's own weights as they are. Adapters, and
                other values of `requires_grad`, do not count.

        Raises:
            TrainingError: as Base.load, or the base does not fit in memory.
        """
        # By the identity too, because another training may have written the folder anew.
        config = base.config.to_json_string(use_diff=False)
        key = (base.folder, identity(base.folder), config, held)
        if self._key != key:
            # Before the next one is read, so that there are never two in memory.
            self._module = self._key = None
            # The system would end the process without a message.
            memory.check(
                base.nbytes(held),
                memory.free_bytes(held.device),
                f"the base in {held.name}, {base.folder},",
                "Close other programs, or train a smaller base.",
            )
            self._module, self._key = base.load(held), key
        module = self._module
        if unchanged:
            return twin(module)
        self._module = self._key = None
        return module

    def known(self, tokenizer: Any) -> Known:
        """Returns the records that were encoded with an equal tokenizer of transformers."""
        # A tokenizer in pure Python has no text that describes all of it; it equals only itself.
        in_rust = getattr(tokenizer, "backend_tokenizer", None) is not None
        key = tokenizer_digest(tokenizer) if in_rust else tokenizer
        return self._known.setdefault(key, {})


def twin(module: Any) -> Any:
    """Returns a copy of a module that shares its weights; buffers and configuration are copied.

    The copy may be frozen, moved to a device, or given an adapter without effect on the module.
    """
    from torch.nn import Parameter

    # deepcopy takes these for copies that it has already made. A quantised weight is of a class of
    # its own, never trained, and stays where it is, so it need not be copied at all.
    memo: dict[int, Any] = {
        id(each): Parameter(each.detach(), each.requires_grad) if type(each) is Parameter else each
        for each in module.parameters()
    }
    return copy.deepcopy(module, memo)


def tokenizer_digest(tokenizer: Any) -> str:
    """Returns a SHA-256 of everything in a tokenizer that the tokens of a record depend on.

    A tokenizer that was saved and loaded has the same one.

    Args:
        tokenizer: a tokenizer of transformers that runs in Rust.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # Left behind by the last call, and set anew by the next.
    backend |= {"padding": None, "truncation": None}
    facts = [
        type(tokenizer).__name__,
        backend,
        tokenizer.chat_template,
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        tokenizer.model_max_length,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
