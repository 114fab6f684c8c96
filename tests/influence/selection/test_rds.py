"""RDS+ against a plain loop over single examples, and what it does with copies and bad input."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from influence.errors import InfluenceError, InfluenceStopped
from influence.selection.budget import Budget
from influence.selection.choose import choose
from influence.selection.rds import rds_scores, rds_vectors


def few(examples, step):
    return replace(examples, examples=examples.examples[::step])


def plain(module, examples):
    """One example at a time, all its tokens, the weights i / Σ i written out, in float64."""
    rows = []
    for each in examples.examples:
        ids = torch.tensor([each.encoded[0].ids.tolist()])
        with torch.no_grad():
            states = module(ids, output_hidden_states=True).hidden_states[-1][0].double()
        total = len(states) * (len(states) + 1) / 2
        mean = sum((at + 1) / total * state for at, state in enumerate(states))
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def test_equals_a_plain_loop_without_padding(demo_model, planted):
    pool, targets, _ = planted
    pool, targets = few(pool, 7), few(targets, 3)
    rows, others = plain(demo_model, pool), plain(demo_model, targets)
    assert rds_vectors(demo_model, pool) == pytest.approx(rows, abs=1e-5)
    scores = rds_scores(demo_model, pool, targets)
    assert scores.values == pytest.approx(rows @ others.T, abs=1e-5)
    assert scores.queries == targets.names and scores.method == "RDS+"


def test_batches_and_order_change_rounding_only(demo_model, planted):
    pool = few(planted[0], 5)
    vectors = rds_vectors(demo_model, pool)
    assert rds_vectors(demo_model, pool, batch_tokens=1) == pytest.approx(vectors, abs=1e-5)
    turned = replace(pool, examples=pool.examples[::-1])
    assert rds_vectors(demo_model, turned)[::-1] == pytest.approx(vectors, abs=1e-5)


def test_planted_copies_come_first_under_maximum_and_round_robin(demo_model, planted):
    pool, targets, rows = planted
    scores = rds_scores(demo_model, pool, targets)
    copy_of = dict(zip(targets.names, rows, strict=True))
    for policy in ("max", "round_robin"):
        choice = choose(pool, scores, Budget(10), policy=policy)
        assert sorted(choice.rows) == rows
        assert [each.score for each in choice.chosen] == pytest.approx([1.0] * 10, abs=1e-5)
        assert choice.rows == tuple(copy_of[query] for query in choice.queries)


def test_weights_that_are_not_finite_are_told_by_the_names_of_examples(demo_model, planted):
    pool = few(planted[0], 20)
    broken = deepcopy(demo_model)
    tokens = [set(each.encoded[0].ids.tolist()) for each in pool.examples]
    token = min(tokens[1] - tokens[0] - tokens[2])
    with torch.no_grad():
        broken.get_input_embeddings().weight[token] = torch.nan
    with pytest.raises(InfluenceError, match=f"finite of the example {pool.names[1]} .1 of 3"):
        rds_scores(broken, pool, few(pool, 2))


def test_unknown_tokens_and_stopping(demo_model, planted):
    pool = few(planted[0], 20)
    strange = pool.examples[0].encoded[0]
    strange = replace(strange, ids=np.append(strange.ids, np.int32(1024)))
    other = replace(pool, examples=(pool.examples[0]._replace(encoded=(strange,)),))
    with pytest.raises(InfluenceError, match="token 1024 occurs in the data, the model knows 1024"):
        rds_vectors(demo_model, other)
    with pytest.raises(InfluenceStopped, match="RDS. was stopped"):
        rds_scores(demo_model, pool, pool, should_stop=lambda: True)
