"""Groups by label, length and embedding: worked examples, a plain loop as the oracle, ties, and what is refused."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import grouping
from corpus.errors import CorpusError
from corpus.grouping import Groups, by_anchors, by_kmeans, by_label, by_length


def at(*degrees):
    """Rows of lengths 1, 2, … at these angles in the plane."""
    turned = np.radians(degrees)
    return (
        np.stack([np.cos(turned), np.sin(turned)], axis=1) * np.arange(1, len(degrees) + 1)[:, None]
    )


class TestGroups:
    def test_sizes(self):
        assert Groups(("a", "b"), (1, 0, 1, 1, 0), "by hand").sizes == (2, 3)

    @pytest.mark.parametrize(
        ("labels", "of", "words"),
        [
            (("a",), (), "there are no examples to group"),
            (("a", "b", "a"), (0, 1, 2), "two groups are called 'a'"),
            (("a", "b"), (0, 1, 2), "examples name the groups 0 to 2, and there are 2 labels"),
            (("a", "b"), (-1, 1), "examples name the groups -1 to 1"),
            (("a", "b", "c"), (0, 0, 2), r"1 of 3 groups have no examples \('b'\)"),
        ],
    )
    def test_what_is_no_grouping(self, labels, of, words):
        with pytest.raises(CorpusError, match=words):
            Groups(labels, of, "by hand")

    def test_neither_sklearn_nor_torch_is_loaded_with_it(self):
        code = "import sys, corpus.grouping, corpus.text_encoders; print(*{'sklearn', 'torch', 'scipy'} & set(sys.modules))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == ""


class TestLabels:
    def test_by_hand(self):
        found = by_label(["sums", "chat", "sums"])
        assert found == Groups(("chat", "sums"), (1, 0, 1), "task label")

    def test_examples_without_a_label_are_counted(self):
        with pytest.raises(
            CorpusError, match="2 of 4 examples have no label, the first is example 2"
        ):
            by_label(["a", "", "b", " "])

    def test_no_examples(self):
        with pytest.raises(CorpusError, match="there are no examples"):
            by_label([])


class TestLengths:
    def test_quantile_bins_by_hand(self):
        found = by_length([3, 9, 4, 30, 5, 5], bins=3)
        assert found.labels == ("3 to 4 tokens", "5 tokens", "9 to 30 tokens")
        assert found.of == (0, 2, 0, 2, 1, 1)
        assert found.metric == "response length, 3 quantile bins"

    def test_bins_of_different_lengths_are_as_equal_as_can_be(self):
        lengths = np.random.default_rng(0).permutation(103) + 1
        sizes = by_length(lengths.tolist()).sizes
        assert len(sizes) == 10
        assert set(sizes) <= {10, 11}

    @settings(deadline=None)
    @given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(2, 7))
    def test_equal_lengths_stay_together_and_bins_follow_one_another(self, lengths, bins):
        found = by_length(lengths, bins)
        assert len(found.sizes) <= bins
        assert all(found.sizes)
        pairs = sorted(zip(lengths, found.of, strict=True))
        assert [group for _, group in pairs] == sorted(found.of)
        assert len(set(pairs)) == len(set(lengths))
        # no bin holds more than a share of 1/bins and the examples of its longest length
        most = Counter(lengths)
        for group, size in enumerate(found.sizes):
            longest = max(
                length for length, of in zip(lengths, found.of, strict=True) if of == group
            )
            assert size - most[longest] < len(lengths) / bins + 1

    def test_fewer_bins_than_asked_for_are_declared(self):
        found = by_length([7] * 5 + [8])
        assert found.labels == ("7 tokens", "8 tokens")
        assert found.metric == "response length, 10 quantile bins, 2 with lengths of their own"
        assert by_length([1, 1]).labels == ("1 token",)

    def test_edges_by_hand(self):
        found = by_length([3, 9, 4, 30, 5, 20], edges=[5, 20])
        assert found.labels == ("up to 5 tokens", "6 to 20 tokens", "21 tokens and more")
        assert found.of == (0, 1, 0, 2, 0, 1)

    def test_edges_between_which_nothing_lies(self):
        found = by_length([1, 30], edges=[1, 2, 20])
        assert found.labels == ("up to 1 token", "21 tokens and more")
        assert found.empty == ("2 tokens", "3 to 20 tokens")
        assert found.of == (0, 1)

    @pytest.mark.parametrize(
        ("lengths", "settings", "words"),
        [
            ([], {}, "there are no examples to group"),
            ([4, 0], {}, "example 2 has a response of 0 tokens; expected 1 or more"),
            ([4, 5], {"bins": 1}, "bins is 1; expected 2 or more"),
            ([4, 5], {"edges": []}, r"edges are \[\]; expected rising lengths"),
            ([4, 5], {"edges": [0, 5]}, r"edges are \[0, 5\]; expected rising lengths from 1 on"),
            ([4, 5], {"edges": [5, 5]}, r"edges are \[5, 5\]; expected rising lengths"),
        ],
    )
    def test_refused(self, lengths, settings, words):
        with pytest.raises(CorpusError, match=words):
            by_length(lengths, **settings)


def plain(vectors, anchors, labels, k):
    """One example at a time, in Python: labels of the k nearest anchors, and whether a tie was broken."""
    found, ties = [], 0
    for vector in vectors:
        cosines = [
            round(float(vector @ a / np.linalg.norm(vector) / np.linalg.norm(a)), 12)
            for a in anchors
        ]
        order = sorted(range(len(anchors)), key=lambda number: (-cosines[number], number))
        votes = Counter(labels[number] for number in order[:k])
        leaders = [label for label, count in votes.items() if count == max(votes.values())]
        found.append(next(labels[number] for number in order[:k] if labels[number] in leaders))
        level = {number for number in order if cosines[number] == cosines[order[k - 1]]}
        cut = not level <= set(order[:k]) and len({labels[number] for number in level}) > 1
        ties += len(leaders) > 1 or cut
    return found, ties


class TestAnchors:
    def test_by_hand(self):
        anchors, labels = at(0, 30, 90), ["a", "b", "b"]
        found = by_anchors(at(10, 14, 16, 100), anchors, labels)
        assert found == Groups(("a", "b"), (0, 0, 1, 1), "1 nearest of 3 anchors, cosine")
        voted = by_anchors(at(10, 14, 16, 100), anchors, labels, k=3)
        assert voted == Groups(("b",), (0, 0, 0, 0), "3 nearest of 3 anchors, cosine", empty=("a",))

    def test_a_tied_majority_goes_to_the_nearest_of_those_labels(self):
        found = by_anchors(at(10, 25), at(0, 30), ["a", "b"], k=2)
        assert [found.labels[group] for group in found.of] == ["a", "b"]
        assert found.ties == 2

    def test_of_anchors_equally_near_the_earlier_counts(self):
        anchors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        for labels, expected in ((["b", "c", "a"], "b"), (["a", "c", "b"], "a")):
            found = by_anchors(np.array([[3.0, 0.0]]), anchors, labels)
            assert found.labels == (expected,)
            assert found.ties == 1
        same = by_anchors(np.array([[3.0, 0.0]]), anchors, ["a", "c", "a"])
        assert same.ties == 0  # either of them says the same

    @settings(deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 9))
    def test_equals_a_plain_loop_with_many_ties(self, seed, k):
        draw = np.random.default_rng(seed)
        # few directions, so that many anchors are equally near
        vectors, anchors = (draw.integers(-1, 2, (count, 3)) * 2 + [1, 0, 0] for count in (13, 9))
        labels = [str(label) for label in draw.integers(0, 4, 9)]
        found = by_anchors(vectors, anchors, labels, k)
        assert ([found.labels[group] for group in found.of], found.ties) == plain(
            vectors, anchors, labels, k
        )
        assert set(found.labels) | set(found.empty) == set(labels)

    def test_equals_sklearns_classifier(self):
        from sklearn.neighbors import KNeighborsClassifier

        draw = np.random.default_rng(3)
        vectors, anchors = draw.standard_normal((211, 17)), draw.standard_normal((57, 17))
        labels = [
            f"task {number % 2}" for number in range(57)
        ]  # two labels and an odd k: no majority is tied
        oracle = KNeighborsClassifier(5, metric="cosine").fit(anchors, labels)
        found = by_anchors(vectors, anchors, labels, k=5)
        assert [found.labels[group] for group in found.of] == oracle.predict(vectors).tolist()
        assert found.ties == 0

    def test_chunks_change_nothing(self, monkeypatch):
        draw = np.random.default_rng(3)
        vectors, anchors = draw.standard_normal((211, 5)), draw.standard_normal((31, 5))
        labels = [str(number % 7) for number in range(31)]
        whole = by_anchors(vectors, anchors, labels, k=4)
        monkeypatch.setattr(grouping, "CHUNK", 13)
        assert by_anchors(vectors, anchors, labels, k=4) == whole

    @pytest.mark.parametrize(
        ("vectors", "anchors", "labels", "k", "words"),
        [
            (
                at(1, 2),
                np.ones((2, 3)),
                "ab",
                1,
                "vectors have 2 columns and anchors 3. Encode both",
            ),
            (at(1, 2), at(1, 2), "abc", 1, "there are 2 anchors and 3 labels"),
            (at(1, 2), at(1, 2), "ab", 3, "k is 3; expected 1 to 2"),
            (at(1, 2), at(1, 2), "ab", 0, "k is 0; expected 1 to 2"),
            (
                np.zeros((3, 2)),
                at(1, 2),
                "ab",
                1,
                "3 of 3 vectors are zero and have no cosine; the first is row 0",
            ),
            (
                at(1, 2),
                np.array([[1, 1], [0, 0]]),
                "ab",
                1,
                "1 of 2 anchors are zero .* the first is row 1",
            ),
            (
                [[1, np.nan]],
                at(1, 2),
                "ab",
                1,
                "1 of 1 vectors hold numbers that are not finite; the first is row 0",
            ),
            ([], at(1, 2), "ab", 1, r"vectors have the shape \(0,\)"),
            ([1.0, 2.0], at(1, 2), "ab", 1, r"vectors have the shape \(2,\); expected one row"),
        ],
    )
    def test_refused(self, vectors, anchors, labels, k, words):
        with pytest.raises(CorpusError, match=words):
            by_anchors(vectors, anchors, list(labels), k)


class TestKMeans:
    def test_bundles_are_found_and_numbered_by_their_first_example(self):
        bundles = [200, 80, 80, 320, 200, 320, 80]
        vectors = at(*(angle + number / 10 for number, angle in enumerate(bundles)))
        found = by_kmeans(vectors, 3, seed=0)
        assert found == Groups(
            ("cluster 1", "cluster 2", "cluster 3"),
            (0, 1, 1, 2, 0, 2, 1),
            "k-means, 3 clusters, seed 0",
        )

    def test_the_same_seed_gives_the_same(self):
        vectors = np.random.default_rng(0).standard_normal((503, 7))
        one, other = (by_kmeans(vectors, 5, seed=2) for _ in range(2))
        assert one == other
        assert sum(one.sizes) == 503

    def test_zeros_are_allowed(self):
        assert by_kmeans([[0, 0], [1, 0], [0, 0]], 2, seed=0).of == (0, 1, 0)

    @pytest.mark.parametrize("count", [0, 3])
    def test_more_clusters_than_different_vectors(self, count):
        words = f"{count} clusters of 3 examples, of which 2 differ; expected 1 to 2 clusters"
        with pytest.raises(CorpusError, match=words):
            by_kmeans(at(0, 90, 90), count, seed=0)
