"""The loops of DoReMi and DOGE against plain loops in float64, their laws, and how they stop."""

from math import exp

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from influence.balance.doge import Doge
from influence.balance.doremi import DoReMi
from influence.balance.proxy_loops import Observer, doge_trace, doremi_trace, reference_losses
from influence.errors import InfluenceError, InfluenceStopped

SEEN = Observer()


def plain_losses(model, row):
    """The loss of each supervised token of one example, by the plainest forward pass."""
    ids = torch.tensor(row.ids[None].astype(int))
    losses = cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
    return losses[torch.tensor(row.supervised[1:])]


def drawn_rows(data, name, target=False):
    """The examples of each step, one list a step."""
    rows = (data.targets if target else data.domains)[name]
    return [[rows[number] for number in each.numbers] for each in data.draws(name, target=target)]


def plain_step(model, memory, gradients, rate, momentum=0.5):
    """SGD with momentum, written out."""
    with torch.no_grad():
        for number, (parameter, gradient) in enumerate(
            zip(model.parameters(), gradients, strict=True)
        ):
            memory[number] = momentum * memory.get(number, 0) + gradient
            parameter -= rate * memory[number]


def clipped(gradients, limit=0.5):
    norm = sum(float((each**2).sum()) for each in gradients) ** 0.5
    # torch adds 1e-6 to the norm.
    return [each * min(1, limit / (norm + 1e-6)) for each in gradients]


def gradient(model, loss):
    return list(torch.autograd.grad(loss, list(model.parameters())))


def same_weights(one, other):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_doremi_against_a_plain_loop(proxy_of, language_model, random_rows):
    """Two steps on domains of 7 and 3 examples, of which a step draws 4 each: one comes twice."""
    proxy = proxy_of({"a": random_rows("a", 7), "b": random_rows("b", 3)})
    reference = language_model("llama")
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter *= 0.9
    known = reference_losses(reference, proxy.data, SEEN)
    trace = doremi_trace(proxy, known, SEEN)

    model, memory, alpha = language_model("llama").train(), {}, np.array([0.5, 0.5])
    expected = [alpha]
    draws = [drawn_rows(proxy.data, name) for name in "ab"]
    for step in range(2):
        loss, excess = 0, []
        for weight, rows in zip(alpha, (draws[0][step], draws[1][step]), strict=True):
            own = torch.cat([plain_losses(model, row) for row in rows])
            other = torch.cat([plain_losses(reference, row) for row in rows])
            loss = loss + weight * own.mean()
            excess.append(float((own - other).detach().clamp(min=0).mean()))
        plain_step(model, memory, clipped(gradient(model, loss)), 0.02 / (1 + step))
        raised = alpha * np.exp(excess)
        alpha = (1 - 1e-4) * raised / raised.sum() + 1e-4 / 2
        expected.append(alpha)
    assert len(drawn_rows(proxy.data, "b")[0]) == 4 and trace.domains == ("a", "b")
    np.testing.assert_allclose(trace.weights, expected, rtol=1e-9)
    np.testing.assert_allclose(trace.mean, np.mean(expected, 0), rtol=1e-9)
    same_weights(proxy.module, model)


@pytest.mark.parametrize("own", [False, True])
def test_doge_against_a_plain_loop(proxy_of, language_model, random_rows, own):
    domains = {"a": random_rows("a", 7), "b": random_rows("b", 3), "c": random_rows("c", 5)}
    targets = domains if own else {"t": random_rows("t", 5), "u": random_rows("u", 6)}
    proxy = proxy_of(domains, targets)
    trace = doge_trace(proxy, SEEN, own_targets=own)

    model, memory, alpha = language_model("llama").train(), {}, np.full(3, 1 / 3)
    expected = [alpha]
    draws = {(name, False): drawn_rows(proxy.data, name) for name in domains}
    if not own:
        draws |= {(name, True): drawn_rows(proxy.data, name, True) for name in targets}
    for step in range(2):
        found = {}
        for key, rows in draws.items():
            losses = torch.cat([plain_losses(model, row) for row in rows[step]])
            found[key] = clipped(gradient(model, losses.mean()))
        flat = {key: torch.cat([each.flatten() for each in part]) for key, part in found.items()}
        g = [flat[name, False] for name in domains]
        h = g if own else [flat[name, True] for name in targets]
        rate = 0.02 / (1 + step)
        mean = np.mean([float(each.norm()) for each in g]) + 1e-6
        scores = []
        for i, mine in enumerate(g):
            total = sum(float(mine @ other) for j, other in enumerate(h) if not own or i != j)
            scores.append(min(max(rate * total / mean, 0), 5 * rate))
        raised = alpha * np.exp(np.array(scores) / 0.05)
        alpha = raised / raised.sum()
        expected.append(alpha)
        mixed = [
            sum(weight * part for weight, part in zip(alpha, parts, strict=True))
            for parts in zip(*(found[name, False] for name in domains), strict=True)
        ]
        plain_step(model, memory, mixed, rate)
    np.testing.assert_allclose(trace.weights, expected, rtol=1e-9)
    np.testing.assert_allclose(trace.mean, np.mean(expected[1:], 0), rtol=1e-9)
    same_weights(proxy.module, model)


def test_a_domain_at_its_reference_gets_no_more_weight(proxy_of, language_model, random_rows):
    """The reference of a is the base itself, that of b a model whose loss on b is 2 nats lower."""
    proxy = proxy_of({"a": random_rows("a", 5), "b": random_rows("b", 5)}, steps=1)
    known = reference_losses(language_model("llama"), proxy.data, SEEN)
    lower = {number: losses - 2 for number, losses in known["b"].items()}
    trace = doremi_trace(proxy, {"a": known["a"], "b": lower}, SEEN, DoReMi([1, 1], smoothing=0))
    e2 = exp(2)
    np.testing.assert_allclose(trace.weights[1], [1 / (1 + e2), e2 / (1 + e2)], rtol=1e-9)


def test_the_domain_of_the_target_gets_the_weight_of_one_that_opposes_it(proxy_of, random_rows):
    """After the same words, `kin` learns what the target learns, `foe` another token."""
    domains = {"foe": random_rows("t", 6, shift=17), "kin": random_rows("t", 6)}
    proxy = proxy_of(domains, {"t": random_rows("t", 6)}, steps=12, draw=6)
    trace = doge_trace(proxy, SEEN, own_targets=False, rule=Doge(2, mu=0.002))
    assert (np.diff(trace.weights[:, 1]) >= 0).all()
    assert trace.mean[1] > 0.8


def test_the_same_seed_gives_the_same_bits(proxy_of, random_rows):
    domains = {"a": random_rows("a", 7), "b": random_rows("b", 3)}
    one, other, third = (
        doge_trace(
            proxy_of(domains, {"t": random_rows("t", 5)}, seed=seed), SEEN, own_targets=False
        )
        for seed in (3, 3, 4)
    )
    assert (one.weights == other.weights).all() and (one.weights[1:] != third.weights[1:]).all()


def test_steps_are_counted_and_can_be_stopped(proxy_of, language_model, random_rows):
    domains = {"a": random_rows("a", 7), "b": random_rows("b", 3)}
    proxy = proxy_of(domains, {"t": random_rows("t", 5)})
    counted, done = [], []
    observer = Observer(
        progress=lambda *now: done.append(now[:2]),
        count=lambda *amounts: counted.append(amounts),
        should_stop=lambda: len(done) == 1,
    )
    with pytest.raises(InfluenceStopped, match="step 2 of the proxy of DOGE"):
        doge_trace(proxy, observer, own_targets=False)
    assert done == [(1, 2)]
    first = [drawn_rows(proxy.data, "a")[0], drawn_rows(proxy.data, "b")[0]]
    first.append(drawn_rows(proxy.data, "t", True)[0])
    assert counted == [
        (4, sum(len(row.ids) for row in rows), sum(row.learned for row in rows)) for rows in first
    ]
    stopped = Observer(should_stop=lambda: True)
    with pytest.raises(InfluenceStopped, match="losses of the reference"):
        reference_losses(language_model("llama"), proxy.data, stopped)
    with pytest.raises(InfluenceStopped, match="step 1 of the proxy of DoReMi"):
        doremi_trace(proxy, {}, stopped)


def test_a_loss_that_is_no_number_is_told(proxy_of, random_rows):
    proxy = proxy_of({"a": random_rows("a", 3), "b": random_rows("b", 3)}, {})
    with torch.no_grad():
        next(proxy.module.parameters()).fill_(float("nan"))
    with pytest.raises(InfluenceError, match="nan at step 1: its training diverged"):
        doge_trace(proxy, SEEN, own_targets=True)
