"""Logits only where they count: the loss and every gradient stay, and models that cannot are told."""

from functools import wraps

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from training.batching.supervised import selects_logits, supervised_only


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).double()


def gradients(model, **batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), [weight.grad.clone() for weight in model.parameters()]


@given(
    st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=3),
    st.sampled_from([None, 5]),
)
def test_loss_and_gradients_are_those_of_all_logits(model, supervised, items):
    """Only the order of sums differs; transformers computes the loss itself in float32."""
    shown = torch.tensor(supervised)
    ids = torch.randint(0, 50, shown.shape, generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "labels": ids.masked_fill(~shown, -100)}
    if not shown[:, 1:].any():
        assert supervised_only(batch) == batch
        return
    more = {} if items is None else {"num_items_in_batch": items}
    loss, wanted = gradients(model, **batch, **more)
    few, got = gradients(model, **supervised_only(batch), **more)
    assert few == pytest.approx(loss, abs=1e-5)
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_only_columns_that_predict_something_have_logits(model):
    labels = torch.tensor([[-100, -100, 7, -100, 8], [-100, 3, -100, -100, -100]])
    batch = supervised_only({"labels": labels, "input_ids": labels.abs().remainder(50)})
    assert batch["logits_to_keep"].tolist() == [0, 1, 3]
    assert batch["shift_labels"].tolist() == [[-100, 7, 8], [3, -100, -100]]
    assert model(**batch).logits.shape == (2, 3, 50)


def test_a_model_with_a_loss_of_its_own_keeps_all_logits(model):
    assert selects_logits(model)
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=50))
    assert selects_logits(other)
    other.loss_function = lambda *_, **__: torch.zeros(())
    assert not selects_logits(other)


def test_a_model_that_takes_no_choice_of_logits_keeps_them_all():
    class Plain(torch.nn.Module):
        def forward(self, input_ids, labels=None):
            return input_ids

    assert not selects_logits(Plain())


def test_a_training_hands_the_choice_to_the_model(stage, tmp_path, monkeypatch):
    """Of a prompt with its answer no more logits are made than the answer has tokens, in any batch."""
    from training.run.finetune import run

    seen, forward = [], LlamaForCausalLM.forward

    @wraps(forward)  # its signature is read
    def watched(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if self.training and kwargs.get("labels") is not None:
            seen.append((output.logits.shape[1], kwargs["labels"].shape[1]))
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", watched)
    run(stage, tmp_path / "out")
    assert seen and all(kept < length for kept, length in seen[-3:])
