"""Hidden states against a plain loop, t-SNE and silhouettes against worked examples, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from corpus.jsonl import Example
from evaluation.errors import DataError, Stopped
from evaluation.hidden_states import States, hidden_states
from evaluation.layout import bounded_perplexity, scatter, silhouette, tsne
from evaluation.prepared import prepare

Build = Callable[..., Any]

DATA = {
    "sums": [Example(f"the sum of {a} and 7 is", f" {a + 7}") for a in range(0, 39, 3)],
    "skies": [
        Example("what is the colour of the sky" * (1 + n % 2), " yes" * (n + 1)) for n in range(7)
    ],
}


def plain(module: Any, tokenizer: Any, example: Example, layer: int, over: str) -> torch.Tensor:
    """One example, all its tokens, no batch: the definition."""
    prompt = tokenizer(example.prompt)["input_ids"]
    answer = [*tokenizer(example.completion)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        states = module(torch.tensor([prompt + answer]), output_hidden_states=True).hidden_states[
            layer
        ][0]
    first = 0 if over == "all" else len(prompt) - 1
    return states[first : len(prompt) + len(answer) - 1].mean(
        0
    )  # the end token is predicted, never read


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "mixtral"])
@pytest.mark.parametrize("over", ["supervised", "all"])
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_equals_a_plain_loop(
    family: str, over: Any, layer: int, build: Build, tokenizer: Any
) -> None:
    module = build(family, **({"intermediate_size": 52} if family == "mixtral" else {}))
    states = hidden_states(module, prepare(DATA, tokenizer, batch_tokens=97), layer, over)
    assert states.labels == ("sums",) * 13 + ("skies",) * 7
    assert (states.layer, states.over) == (layer % 3, over)
    assert states.vectors.dtype == np.float32
    examples = [example for data in DATA.values() for example in data]
    expected = torch.stack([plain(module, tokenizer, example, layer, over) for example in examples])
    assert states.vectors == pytest.approx(expected.numpy(), abs=2e-5)


def test_the_batches_change_rounding_only(build: Build, tokenizer: Any) -> None:
    module = build("llama").double()
    one, other = (
        hidden_states(module, prepare(DATA, tokenizer, batch_tokens=size)).vectors
        for size in (1, 2048)
    )
    assert one == pytest.approx(other, abs=1e-6)


def test_bfloat16_states_are_averaged_in_float32(build: Build, tokenizer: Any) -> None:
    prepared = prepare(DATA, tokenizer)
    exact = hidden_states(build("llama"), prepared).vectors
    assert hidden_states(build("llama").bfloat16(), prepared).vectors == pytest.approx(
        exact, abs=0.15
    )


def test_a_module_that_cannot_select_columns(build: Build, tokenizer: Any) -> None:
    class Without(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def forward(self, input_ids: Any, use_cache: bool, output_hidden_states: bool) -> Any:
            return self.inner(
                input_ids=input_ids, use_cache=use_cache, output_hidden_states=output_hidden_states
            )

    module, prepared = build("llama"), prepare(DATA, tokenizer)
    assert (
        hidden_states(module, prepared).vectors == hidden_states(Without(module), prepared).vectors
    ).all()


def test_states_refused(build: Build, tokenizer: Any) -> None:
    module, prepared = build("llama"), prepare(DATA, tokenizer)
    for layer in (3, -4):
        with pytest.raises(
            DataError, match=rf"layer is {layer}; the model has 0 \(embeddings\) to 2, or -1"
        ):
            hidden_states(module, prepared, layer)
    with pytest.raises(DataError, match='over is "some"; expected "supervised" or "all"'):
        hidden_states(module, prepared, over="some")  # type: ignore[arg-type]
    known = prepared.largest
    with pytest.raises(
        DataError, match=f"token {known} occurs in the data, the model knows {known} tokens"
    ):
        hidden_states(build("llama", vocab_size=known), prepared)
    with torch.no_grad():
        module.model.norm.weight.fill_(torch.nan)
    with pytest.raises(DataError, match="20 of 20 hidden states at layer 2 are not finite"):
        hidden_states(module, prepared)


def test_stop(build: Build, tokenizer: Any) -> None:
    with pytest.raises(Stopped, match="stopped at dataset 'sums'"):
        hidden_states(build("llama"), prepare(DATA, tokenizer), should_stop=lambda: True)


def bundles(count: int = 13, dimensions: int = 11, apart: float = 5.0) -> tuple[Any, list[str]]:
    """Three bundles of vectors, far from one another."""
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((3, count, dimensions)) + apart * np.eye(3, dimensions)[:, None]
    return rows.reshape(-1, dimensions), [name for name in "abc" for _ in range(count)]


def test_silhouette_by_hand() -> None:
    found = silhouette([[0, 0], [1, 0], [4, 0], [5, 0]], list("xxyy"), "euclidean")
    # 0: a = 1, b = (4 + 5)/2 = 4.5, 3.5/4.5; 1: a = 1, b = (3 + 4)/2 = 3.5, 2.5/3.5; the others mirror them
    expected = (3.5 / 4.5 + 2.5 / 3.5) / 2
    assert found.value == pytest.approx(expected)
    assert found.by_label == pytest.approx({"x": expected, "y": expected})
    assert (found.n, found.metric) == (4, "euclidean")


def test_silhouette_by_cosine_does_not_see_lengths() -> None:
    rows, labels = bundles()
    scaled = rows * np.arange(1, len(rows) + 1)[:, None]
    assert silhouette(scaled, labels).value == pytest.approx(silhouette(rows, labels).value)
    assert (
        silhouette(scaled, labels, "euclidean").value < silhouette(rows, labels, "euclidean").value
    )


def test_silhouette_tells_bundles_from_one_cloud() -> None:
    rows, labels = bundles()
    mixed = [labels[number] for number in np.random.default_rng(1).permutation(len(labels))]
    assert silhouette(rows, labels).value > 0.5
    assert abs(silhouette(rows, mixed).value) < 0.1


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("aaaa", "4 vectors have 4 labels, 1 of them different"),
        ("abcd", "4 vectors have 4 labels, 4 of them different"),
        ("aab", "4 vectors have 3 labels, 2 of them different"),
    ],
)
def test_silhouette_needs_labels(labels: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        silhouette(np.eye(4), list(labels))


def test_tsne_keeps_bundles_together_and_comes_again() -> None:
    rows, labels = bundles()
    points = tsne(rows, seed=3)
    assert points.shape == (39, 2)
    assert points.dtype == np.float32
    assert (points == tsne(rows, seed=3)).all()
    assert silhouette(points, labels, "euclidean").value > 0.5


def test_tsne_by_cosine_does_not_see_lengths() -> None:
    rows, labels = bundles()
    scaled = (
        rows
        * np.geomspace(1, 1000, len(rows))[np.random.default_rng(2).permutation(len(rows))][:, None]
    )
    by_cosine, by_distance = (
        silhouette(tsne(scaled, 3, metric=metric), labels, "euclidean").value
        for metric in ("cosine", "euclidean")
    )
    assert by_cosine > 0.5 > by_distance


def test_perplexity_is_bounded_by_the_count() -> None:
    assert bounded_perplexity(30, 1000) == 30
    assert bounded_perplexity(30, 91) == 30
    assert bounded_perplexity(30, 13) == 4
    assert bounded_perplexity(2, 13) == 2
    assert tsne(np.eye(4), seed=0).shape == (4, 2)
    with pytest.raises(DataError, match="perplexity is 0; expected a number above 0"):
        bounded_perplexity(0, 13)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.eye(3), "3 vectors of 3 numbers cannot be laid out; expected 4 of 2 or more"),
        (np.ones((5, 1)), "5 vectors of 1 numbers cannot be laid out"),
        (np.ones((5, 2)), "all 5 vectors are equal"),
        (np.ones(5), r"vectors have the shape \(5,\)"),
        (np.full((5, 2), np.nan), "5 of 5 vectors are not finite"),
        (
            np.eye(5) * [1, 0, 1, 0, 1],
            "2 of 5 vectors are zero and have no cosine. Leave them out, or",
        ),
    ],
)
def test_tsne_refuses(rows: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        tsne(rows, seed=0)


def test_some_equal_vectors_and_zeros_are_laid_out() -> None:
    assert np.isfinite(tsne(np.repeat(np.eye(3), 5, axis=0), seed=0)).all()
    assert np.isfinite(tsne(np.eye(5) * [1, 0, 1, 0, 1], seed=0, metric="euclidean")).all()


def test_scatter_holds_what_made_it() -> None:
    rows, labels = bundles()
    states = States(rows.astype(np.float32), tuple(labels), 2, "supervised")
    found = scatter(states, seed=3)
    assert (found.points == tsne(states.vectors, seed=3)).all()
    assert found.silhouette == silhouette(states.vectors, labels)
    assert found.perplexity == 38 / 3
    assert found.caption == (
        "39 examples of 3 datasets: mean over supervised tokens of the states at layer 2; t-SNE, perplexity 12.6667, "
        f"seed 3. Silhouette {found.silhouette.value:.2f} (cosine). Distances between clusters, and their sizes, mean little."
    )


def test_scatter_of_one_dataset_has_no_silhouette() -> None:
    states = States(bundles()[0].astype(np.float32), ("a",) * 39, 0, "all")
    found = scatter(states, seed=3)
    assert found.silhouette is None
    assert found.caption.startswith(
        "39 examples of 1 datasets: mean over all tokens of the states at layer 0; t-SNE"
    )
