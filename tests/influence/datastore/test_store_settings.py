"""Settings of a datastore: one text for equal settings, and what differs by name."""

from dataclasses import replace

import pytest

from influence.datastore.store_settings import StoreSettings
from influence.errors import InfluenceError
from influence.projection.projector import Projection
from tests.influence.datastore.conftest import settings


def test_they_come_back_from_their_text(tmp_path):
    asked = settings()
    (tmp_path / "settings.json").write_text(asked.text(), "utf-8")
    assert StoreSettings.read(tmp_path / "settings.json") == asked


def test_examples_are_numbered_source_by_source():
    assert settings().spans() == {"cot": range(3), "p3": range(3, 11)}
    assert settings().examples == 11
    assert settings().where(2) == "example 3 of 'cot'"
    assert settings().where(3) == "example 1 of 'p3'"


def first(parts, **values):
    return (replace(parts[0], **values), *parts[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"kind": "adam"}, "kind: the datastore has 'sgd', and 'adam' was asked for"),
        (lambda s: {"dtype": "float32"}, "dtype: the datastore has 'float16', and 'float32'"),
        (lambda s: {"projection": Projection("rademacher", 6, 1)}, "projection.seed: the datastore has 0, and 1 was"),
        (lambda s: {"projection": Projection("rademacher", 8)}, "projection.dimension: the datastore has 6, and 8"),
        (lambda s: {"projection": Projection("sparse", 6, rows=2)}, "projection.kind: the datastore has 'rademacher'"),
        (lambda s: {"tokenisation": {"max_length": 512}}, "tokenisation.max_length: the datastore has 256, and 512"),
        (lambda s: {"sources": first(s.sources, digest="other")}, "sources.cot.digest: the datastore has 'digest of cot'"),
        (lambda s: {"sources": s.sources[1:]}, "sources.cot.examples: the datastore has 3, and None"),
        (lambda s: {"sources": s.sources[::-1]}, "order of the sources"),
        (lambda s: {"checkpoints": first(s.checkpoints, digest="x")}, "checkpoints.epoch 1.digest: .*'x' was asked for"),
        (lambda s: {"checkpoints": first(s.checkpoints, mean_rate=1.0)}, "checkpoints.epoch 1.mean_rate"),
    ],
)  # fmt: skip
def test_every_other_setting_is_named(change, message, tmp_path):
    held = settings()
    with pytest.raises(InfluenceError, match=message) as error:
        replace(held, **change(held)).check_same(held, tmp_path)
    assert str(error.value).endswith("Use the settings of the datastore, or another folder.")


def test_the_same_settings_are_accepted(tmp_path):
    settings().check_same(settings(), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": ()}, "needs at least one source"),
        ({"rates": ()}, "needs at least one checkpoint"),
        ({"sources": (("cot", 3), ("cot", 4))}, "Two sources .* have the same name: cot, cot"),
        ({"sources": (("cot", 0),)}, "'cot' has no examples"),
        ({"dtype": "bfloat16"}, "not as 'bfloat16'"),
    ],
)
def test_settings_of_nothing_are_refused(values, message):
    with pytest.raises(InfluenceError, match=message):
        settings(**values)


@pytest.mark.parametrize("text", ["", "{}", '{"sources": 3}', "[1]"])
def test_another_file_is_refused(text, tmp_path):
    (tmp_path / "settings.json").write_text(text, "utf-8")
    with pytest.raises(InfluenceError, match="does not describe a datastore of this version"):
        StoreSettings.read(tmp_path / "settings.json")
