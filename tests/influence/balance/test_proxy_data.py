"""What a proxy draws of its domains, and the data that it refuses."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from corpus import Example
from influence.balance.proxy_data import ProxyData, proxy_stage, read_proxy_data
from influence.errors import InfluenceError
from training.run.shared import Shared


def test_domains_keep_their_examples_and_their_share_of_a_step(plain_stage, sums, words):
    """Three updates of 5 · 2 of 12 sums and 3 words."""
    domains = {"sums": sums, "words": words}
    stage = proxy_stage(plain_stage, domains, {"sums": sums[:4]}, 3)
    data = read_proxy_data(stage, domains, Shared())
    assert {name: len(rows) for name, rows in data.domains.items()} == {"sums": 12, "words": 3}
    assert len(data.targets["sums"]) == 4
    # Half of 5 · 2 examples for each of two domains; a batch is five of the longest.
    longest = max(len(row.ids) for rows in data.domains.values() for row in rows)
    assert (data.steps, data.draw, data.positions) == (3, 5, 5 * longest)
    assert (stage.steps, stage.epochs, stage.keep_epochs) == (3, None, False)
    lengths = [len(row.ids) for row in data.domains["words"]]
    [first, *_] = data.draws("words")
    assert first.tokens == sum(lengths[number] for number in first.numbers)
    assert first.supervised == sum(
        data.domains["words"][number].learned for number in first.numbers
    )
    assert sum(len(batch.targets) for batch in first.batches) == first.supervised


def test_a_set_is_drawn_in_passes_which_no_other_set_changes(random_rows):
    rows = {"a": random_rows("a", 5), "b": random_rows("b", 7)}
    data = ProxyData(rows, {"a": rows["a"]}, steps=10, draw=3, positions=40, seed=0)
    drawn = [number for each in data.draws("a") for number in each.numbers]
    assert Counter(drawn) == dict.fromkeys(range(5), 6)
    assert all(sorted(drawn[at : at + 5]) == list(range(5)) for at in range(0, 30, 5))
    alone = data._replace(domains={"a": rows["a"]}, steps=4)
    assert [each.numbers for each in alone.draws("a")] == [
        each.numbers for each in islice(data.draws("a"), 4)
    ]
    assert drawn != [number for each in data.draws("a", target=True) for number in each.numbers]
    other = data._replace(seed=1)
    assert drawn != [number for each in other.draws("a") for number in each.numbers]
    few = data._replace(steps=1)
    assert few.drawn("b") == sorted(next(few.draws("b")).numbers) and len(few.drawn("b")) == 3
    assert data.drawn("b") == list(range(7))


def test_a_set_without_a_token_to_learn_is_named(plain_stage, sums):
    """A limit of 20 tokens cuts off all that is learned of one domain."""
    long = [Example("say one two three " * 20, " four")]
    cut = replace(plain_stage, max_length=20, too_long="cut")
    domains = {"sums": sums, "long": long}
    with pytest.raises(InfluenceError, match="the domain long has no example with a token"):
        read_proxy_data(proxy_stage(cut, domains, {"t": sums}, 3), domains, Shared())
