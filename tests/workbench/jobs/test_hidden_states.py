"""The picture of hidden states: a job that draws it once, and a figure with the one colour policy."""

import numpy as np
import pytest

from evaluation.hidden_states import hidden_states
from evaluation.layout import Scatter, Silhouette, silhouette
from evaluation.prepared import prepare
from workbench.errors import SessionError
from workbench.jobs import hidden_states as picture
from workbench.plots import theme
from workbench.plots.hidden_states import SHAPES, states_figure


def drawn(session, recipe, layer):
    return session.jobs.wait(picture.submit(session, recipe, layer).id)


def test_a_picture_is_drawn_once_and_found_again(session):
    from corpus.jsonl import read_datasets

    recipe = session.recipe((0.5, 0.0, 0.75))
    assert picture.find(session, recipe, 1) is None
    job = drawn(session, recipe, 1)
    assert job.state == "done", job.error
    found = picture.find(session, recipe, 1)
    assert (
        found.caption == job.result
        and found.points.shape == (69, 2)
        and found.points.dtype == np.float32
    )
    assert (found.layer, found.over, found.seed) == (1, "supervised", 0)
    assert [found.labels.count(name) for name in ("ada", "bob", "lora")] == [23, 23, 23]
    # the oracle: the silhouette of the composition's own states
    models = session.models
    prepared = prepare(
        read_datasets(models.data_folder), models.loaded.tokenizer, limit=picture.EXAMPLES
    )
    states = hidden_states(models.composer.compose(recipe), prepared, 1)
    assert found.silhouette.value == pytest.approx(
        silhouette(states.vectors, states.labels).value, abs=1e-6
    )
    (phase,) = session.ledger.phases("evaluation")
    assert (phase.name, phase.examples, phase.complete) == (picture.STATES, 69, True)
    for other in (session.recipe((0.5, 0.0, 0.5)), recipe):
        assert picture.find(session, other, 2) is None
    assert not list((session.workdir.pictures).glob("*.tmp"))


def test_a_bounded_number_of_examples(session, monkeypatch):
    monkeypatch.setattr(picture, "EXAMPLES", 7)
    assert drawn(session, session.recipe({}), 0).state == "done"
    found = picture.find(session, session.recipe({}), 0)
    assert len(found.labels) == 21 and found.layer == 0
    monkeypatch.setattr(picture, "EXAMPLES", 8)
    assert picture.find(session, session.recipe({}), 0) is None


def test_a_cancelled_picture_is_not_kept(session, monkeypatch):
    original = picture.with_frozen

    def frozen(*needed):
        session.jobs.cancel(session.jobs.active()[0].id)
        return original(*needed)

    monkeypatch.setattr(picture, "with_frozen", frozen)
    assert drawn(session, session.recipe({}), 1).state == "cancelled"
    assert picture.find(session, session.recipe({}), 1) is None
    assert [phase.complete for phase in session.ledger.phases("evaluation")] == [False]


def test_what_cannot_be_drawn_is_said(session):
    assert picture.depth(session.models) == 2
    for layer in (-1, 3):
        with pytest.raises(
            SessionError, match=f"layer is {layer}; this model has 0 .the embeddings. to 2"
        ):
            picture.submit(session, session.recipe({}), layer)
    models = session.models
    session.open(models.base.path, [(models.checkpoints[0], None)])
    with pytest.raises(SessionError, match="no validation data is open"):
        picture.submit(session, session.recipe({}), 1)


@pytest.mark.parametrize("dark", [False, True])
def test_each_dataset_has_its_colour_and_a_shape(dark):
    points = np.array([[0, 1], [2, 3], [5, 8], [13, 21]], dtype=np.float32)
    score = Silhouette(0.5, {"b": 0.25, "<a>": 0.75}, 4, "cosine")
    found = Scatter(points, ("b", "<a>", "b", "<a>"), 1, "all", 1.0, 0, score)
    figure = states_figure(found, ["<a>", "other", "b"], dark)
    b, a = figure.data
    assert (b.name, a.name) == ("b", "&lt;a&gt;")
    assert list(b.x) == [0, 5] and list(b.y) == [1, 8] and list(a.x) == [2, 13]
    assert (b.marker.color, b.marker.symbol) == (theme.dataset_colour(2, dark), SHAPES[2])
    assert (a.marker.color, a.marker.symbol) == (theme.dataset_colour(0, dark), SHAPES[0])
    assert figure.layout.font.color == theme.INK[theme.theme_of(dark)]
    assert len(set(SHAPES)) == len(SHAPES) == len(theme.DATASET_COLOURS["light"])


def test_examples_grouped_as_commonit_would(session):
    from corpus.grouping import by_kmeans, by_length
    from corpus.jsonl import read_datasets
    from corpus.tokens import encode

    recipe, models = session.recipe({}), session.models
    datasets = read_datasets(models.data_folder)
    job = session.jobs.wait(picture.submit(session, recipe, 1, picture.LENGTHS).id)
    assert job.state == "done", job.error
    found = picture.find(session, recipe, 1, picture.LENGTHS)
    assert found.by == "ranges of response length" and "ranges of response length" in found.caption
    # the oracle counts the supervised tokens of each example apart from any batch
    examples = [one for name in models.data for one in datasets[name][: picture.EXAMPLES]]
    lengths = [sum(encode(one, models.loaded.tokenizer).supervised) for one in examples]
    groups = by_length(lengths, picture.GROUPS)
    assert found.labels == tuple(groups.labels[group] for group in groups.of)
    assert picture.find(session, recipe, 1) is None  # by datasets it is another picture

    assert (
        session.jobs.wait(picture.submit(session, recipe, 1, picture.CLUSTERS).id).state == "done"
    )
    found = picture.find(session, recipe, 1, picture.CLUSTERS)
    prepared = prepare(datasets, models.loaded.tokenizer, limit=picture.EXAMPLES)
    states = hidden_states(models.composer.compose(recipe), prepared, 1)
    clusters = by_kmeans(states.vectors, picture.GROUPS, picture.SEED)
    assert found.labels == tuple(clusters.labels[group] for group in clusters.of)
