"""Steps that share a base and tokens: the same bits as alone, read once, read again where needed."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from training.errors import TrainingError
from training.run import memory
from training.run.base import Base, open_base
from training.run.finetune import Lora, run
from training.run.setup import quiet, set_up
from training.run.shared import Shared, tokenizer_digest, twin


@pytest.fixture
def reads(monkeypatch):
    """The folders whose weights were read, in order."""
    folders, load = [], Base.load

    def spy(base, dtype):
        folders.append(base.folder)
        return load(base, dtype)

    monkeypatch.setattr(Base, "load", spy)
    return folders


def weights(folder):
    name = "model" if (folder / "model.safetensors").exists() else "adapter_model"
    return load_file(folder / f"{name}.safetensors")


@pytest.mark.slow
def test_stages_that_share_give_the_same_bits_as_alone(stage, tmp_path, reads):
    adapter = replace(stage, lora=Lora(4, dropout=0.1))
    stages = {
        "full": replace(stage, precision="bf16"),
        "adapter": adapter,
        "frozen": replace(stage, frozen=("*embed_tokens*",), checkpointing=True),
        "half": replace(adapter, lora=Lora(4), precision="bf16", checkpointing=True),
        "again": replace(adapter, seed=1),
    }
    alone = {name: run(each, tmp_path / "alone" / name) for name, each in stages.items()}
    reads.clear()
    shared = Shared()
    for name, each in stages.items():
        made = run(each, tmp_path / "shared" / name, shared=shared)
        ours, theirs = weights(made.folder), weights(alone[name].folder)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
        assert made.counts == alone[name].counts
        losses = [point.loss for point in made.curve]
        assert losses == [point.loss for point in alone[name].curve]
    # "full" and "frozen" change the weights; the adapters after "frozen" share one reading.
    assert len(reads) == 3


def test_a_check_leaves_the_weights_for_the_training(stage, reads):
    shared = Shared()
    with quiet():
        checked = set_up(replace(stage, frozen=("*embed_tokens*",)), shared, trains=False).model
        set_up(replace(stage, lora=Lora(2)), shared, trains=False)
        ready = set_up(stage, shared)
    assert len(reads) == 1
    assert all(parameter.requires_grad for parameter in ready.model.parameters())
    assert not checked.get_input_embeddings().weight.requires_grad
    names = {name for name, _ in ready.model.named_parameters()}
    assert not any("lora" in name for name in names)


def test_a_twin_shares_weights_and_nothing_else(tiny):
    module = open_base(tiny).load()
    copied = twin(module)
    pairs = list(zip(module.parameters(), copied.parameters(), strict=True))
    assert all(ours is not its and ours.data_ptr() == its.data_ptr() for ours, its in pairs)
    assert copied.config is not module.config
    assert copied.lm_head.weight is copied.model.embed_tokens.weight  # tied, as in the module
    copied.requires_grad_(False)
    copied.to(torch.float64)
    assert all(ours.requires_grad and ours.dtype == torch.float32 for ours in module.parameters())
    ids = torch.arange(5)[None]
    with torch.no_grad():
        assert torch.allclose(module(ids).logits, copied(ids).logits.float(), atol=1e-5)


@pytest.mark.slow
def test_a_base_that_was_written_anew_is_read_anew(stage, tiny, tmp_path, reads):
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    shared, adapter = Shared(), replace(stage, base=base, lora=Lora(2))
    run(adapter, tmp_path / "before", shared=shared)
    tensors = {name: tensor + 0.25 for name, tensor in weights(base).items()}
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    after = run(adapter, tmp_path / "after", shared=shared)
    alone = run(adapter, tmp_path / "alone")
    assert len(reads) == 3
    assert all(
        torch.equal(weights(after.folder)[key], its) for key, its in weights(alone.folder).items()
    )


def test_memory_is_asked_for_only_when_a_base_is_read(stage, tmp_path, monkeypatch):
    shared, adapter = Shared(), replace(stage, lora=Lora(2))
    with quiet():
        set_up(adapter, shared)
    size = memory.FLOAT * open_base(stage.base).weights.numel
    monkeypatch.setattr(memory, "free_bytes", lambda device: size - 1)
    monkeypatch.setattr("training.run.setup._check_memory", lambda *args: None)
    with quiet():
        set_up(adapter, shared)
        with pytest.raises(TrainingError, match=r"the base in float32, .* takes about"):
            set_up(adapter, Shared())


def test_equal_tokenizers_share_their_tokens(tiny, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    digest = tokenizer_digest(tokenizer)
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer_digest(saved) == digest
    # A batch leaves its padding and its truncation in the tokenizer.
    saved(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(saved) == digest
    shared = Shared()
    assert shared.known(tokenizer) is shared.known(saved)


@pytest.mark.parametrize("change", ["template", "token", "end", "begin"])
def test_tokenizers_that_differ_share_nothing(tiny, change):
    tokenizer, other = (AutoTokenizer.from_pretrained(tiny) for _ in range(2))
    if change == "template":
        other.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    elif change == "token":
        other.add_tokens(["plus"])
    elif change == "end":
        other.eos_token = tokenizer.pad_token
    else:
        from tokenizers.processors import TemplateProcessing

        begin = (tokenizer.pad_token, tokenizer.pad_token_id)
        other.backend_tokenizer.post_processor = TemplateProcessing(f"{begin[0]} $A", None, [begin])
    assert tokenizer_digest(tokenizer) != tokenizer_digest(other)


def test_a_tokenizer_in_python_shares_with_itself_only():
    class Letters:
        def __call__(self, text, **_):
            return {"input_ids": [ord(letter) for letter in text]}

    shared, one, other = Shared(), Letters(), Letters()
    assert shared.known(one) is shared.known(one)
    assert shared.known(one) is not shared.known(other)
