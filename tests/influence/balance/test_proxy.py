"""A proxy trains what an ordinary training trains, with the same optimiser and the same rates."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from influence.balance.proxy import device_of, open_proxy
from influence.balance.proxy_data import proxy_stage, read_proxy_data
from influence.balance.proxy_loops import Observer, doge_trace, doremi_trace, reference_losses
from training.adapter import Lora
from training.errors import TrainingError
from training.run import memory
from training.run.finetune import run
from training.run.shared import Shared


def opened(stage, domains, **more):
    ready = proxy_stage(stage, domains, {"t": domains["a"]}, 4)
    shared = Shared()
    return open_proxy(ready, read_proxy_data(ready, domains, shared), shared, **more)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, Lora(4)])
@pytest.mark.parametrize("method", ["doremi", "doge"])
def test_on_one_example_a_proxy_is_an_ordinary_training(plain_stage, words, tmp_path, method, lora):
    """Whatever the weights are, the weighted loss of two copies of a domain is its loss.

    So AdamW with its decay, the warm-up and the fall of the rate, the clip of the gradient and the
    beginning of an adapter are those of a run.
    """
    stage = replace(
        plain_stage, examples=(words[0],), steps=4, epochs=None, keep_epochs=False, lora=lora,
        rate=0.01, warmup=0.3, decay=0.1, clip=0.05,
    )  # fmt: skip
    made = run(stage, tmp_path / "run").folder
    proxy = opened(stage, {"a": words[:1], "b": words[:1]})
    if method == "doremi":
        doremi_trace(
            proxy, reference_losses(proxy.module.eval(), proxy.data, Observer()), Observer()
        )
    else:
        doge_trace(proxy, Observer(), own_targets=False)
    if lora is None:
        trained, file = proxy.module.state_dict(), "model.safetensors"
    else:
        state = proxy.module.get_adapter_state_dict().items()
        trained = {f"base_model.model.{name}": value for name, value in state}
        file = "adapter_model.safetensors"
    written = load_file(made / file)
    begun = opened(stage, {"a": words[:1], "b": words[:1]}).module
    assert any(
        (a - b).abs().max() > 1e-3
        for a, b in zip(proxy.module.parameters(), begun.parameters(), strict=True)
    )
    for name, value in written.items():
        # AdamW's first steps are the signs of gradients, and rounding decides those of tiny ones.
        torch.testing.assert_close(trained[name], value, rtol=0, atol=2e-4, msg=name)


def test_the_rates_are_those_of_the_schedule(plain_stage, sums, words):
    """Four updates, of which the first two warm up: 0, a half, then from the whole down a cosine."""
    proxy = opened(replace(plain_stage, warmup=0.5, rate=0.02), {"a": sums, "b": words})
    rates = []
    for _ in range(4):
        rates.append(proxy.rate)
        proxy.update()
    assert rates == pytest.approx([0, 0.01, 0.02, 0.01])
    assert proxy.module.training and proxy.clip == 1.0
    assert device_of(plain_stage) == ("cpu", False)


def test_gradients_that_do_not_fit_are_refused(plain_stage, sums, words, monkeypatch):
    """58,176 float32 parameters are 0.23 MB: a step fits into 2 MB, and ten gradients do not."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2_000_000)
    domains = {"a": sums, "b": words}
    opened(plain_stage, domains)
    with pytest.raises(TrainingError, match="10 gradients of 58,176 parameters.*a LoRA adapter"):
        opened(plain_stage, domains, gradients=10)
