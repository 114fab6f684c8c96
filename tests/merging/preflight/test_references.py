"""Every folder and hub id that cannot be had is told at once, and nothing is downloaded for a merge that cannot be."""

import importlib.util
import json
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from merging import Recipe, preflight, prepare
from merging.errors import CheckpointError, MismatchError
from merging.inputs import hub
from merging.inputs.vector import DistributionVector
from merging.outputs.vector_folder import save_vector
from merging.preflight.references import resolve_all
from merging.recipe import parse_recipe

_spec = importlib.util.spec_from_file_location(
    "hub_server", Path(__file__).parents[1] / "inputs" / "hub_server.py"
)
hub_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hub_server)

CONFIG = {"model_type": "llama"}
QUERY = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(
        constants, "HF_HUB_OFFLINE", False
    )  # tests/conftest.py switches the network off
    with hub_server.HubServer() as listening:
        yield listening
    close_session()


@pytest.fixture
def there(server, tmp_path):
    """What preflight takes: the hub that listens, and a cache of the test's own."""
    where = {"endpoint": server.url, "cache_dir": tmp_path / "cache"}

    def locate(reference):
        return hub.fetch(reference, **where).folder if hub.is_hub_id(reference) else Path(reference)

    return {"locate": locate, "probe": lambda reference: hub.probe(reference, **where)}


@pytest.fixture
def upload(server, tmp_path, llama, tuned, write):
    """upload(name, seed): a fine-tune of one base, or the base where no seed is given, as a model of the hub."""

    def up(name, seed=None):
        base = llama()
        folder = write(tmp_path / "up" / name, base if seed is None else tuned(base, seed), CONFIG)
        server.add(f"org/{name}", {file.name: file.read_bytes() for file in folder.iterdir()})

    return up


def recipe(base, **models):
    return Recipe.compose(base, models, dict.fromkeys(models, 0.5))


def lines(wanted, **more):
    with pytest.raises(MismatchError) as caught:
        prepare(wanted, **more)
    return str(caught.value).splitlines()


def test_all_that_cannot_be_had_from_the_hub_is_told_and_nothing_is_downloaded(
    server, upload, there, tmp_path
):
    upload("base")
    upload("cot", 1)
    upload("gated", 2)
    server.repos["org/gated"].gated = True
    (tmp_path / "empty").mkdir()
    places = {"cot": "org/cot", "typo": "org/ct", "gone": "org/cot@v9", "gated": "org/gated"}
    wanted = recipe(
        "org/base", **places, missing=str(tmp_path / "nowhere"), empty=str(tmp_path / "empty")
    )
    found = lines(wanted, **there)
    told = [
        "org/ct is not a folder",
        "org/cot has no revision 'v9'",
        "org/gated is gated",
        "nowhere does not",
        "empty holds",
    ]
    assert len(found) == len(told) and all(
        word in line for word, line in zip(told, found, strict=True)
    )
    assert not [name for name in server.fetched() if name.endswith(".safetensors")]


def test_what_is_there_is_opened(server, upload, there):
    upload("base")
    upload("cot", 1)
    opened = prepare(recipe("org/base", cot="org/cot"), **there)
    assert list(opened.vectors) == ["cot"] and opened.problems == []


def test_no_network_is_told_of_each(server, upload, there, tmp_path):
    server.stop()
    found = lines(recipe("org/base", cot="org/cot"), **there)
    assert [line.partition(" is not a folder")[0] for line in found] == ["org/base", "org/cot"]
    assert all("Connection refused" in line for line in found)


def test_one_hub_id_is_asked_about_once(server, upload, there, tmp_path, llama, tuned, write):
    upload("cot", 1)
    write(tmp_path / "base", llama(), CONFIG)
    asked = []
    prepare(recipe(str(tmp_path / "base"), cot="org/cot"), **there | {"probe": asked.append})
    assert asked == []


def test_a_broken_one_is_told_beside_one_that_cannot_be_had(
    server, upload, there, tmp_path, llama, adapter, write
):
    """With the base at hand, what does not fit it is told too."""
    base = llama()
    write(tmp_path / "base", base, CONFIG)
    write(tmp_path / "wide", base, CONFIG | {"hidden_size": 8})
    (tmp_path / "base" / "config.json").write_text(json.dumps(CONFIG | {"hidden_size": 7}))
    places = {name: str(tmp_path / name) for name in ("wide", "lora")}
    adapter(tmp_path / "lora", base, [QUERY], use_dora=True)
    found = lines(recipe(str(tmp_path / "base"), gone="org/gone", **places), **there)
    told = ["org/gone is not a folder", "wide: config.json says hidden_size = 8", "use_dora is set"]
    assert len(found) == 3 and all(word in line for word, line in zip(told, found, strict=True))


def test_without_a_base_each_is_looked_at_by_itself(tmp_path, llama, tuned, adapter, write):
    base = llama()
    write(tmp_path / "whole", tuned(base, 1), CONFIG)
    save_vector(DistributionVector("saved", base, tuned(base, 2)), tmp_path / "saved")
    adapter(tmp_path / "lora", base, [QUERY])
    adapter(tmp_path / "dora", base, [QUERY], use_dora=True)
    (tmp_path / "dora" / "adapter_model.safetensors").unlink()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "delta.safetensors").write_bytes(b"")
    (tmp_path / "base").mkdir()
    places = {name: str(tmp_path / name) for name in ("whole", "saved", "lora", "dora", "cut")}
    found = lines(recipe(str(tmp_path / "base"), **places))
    assert len(found) == 3
    told = ["base holds no safetensors weights", "use_dora is set", f"{tmp_path / 'cut'}"]
    assert all(word in line for word, line in zip(told, found, strict=True))


def slices(tmp_path, *names):
    sources = ", ".join(
        f"{{model: {tmp_path}/{name}, layer_range: [0, 2]{'' if name == 'base' else ', parameters: {weight: 1}'}}}"
        for name in names
    )
    text = f"merge_method: task_arithmetic\nbase_model: {tmp_path}/base\nslices: [{{sources: [{sources}]}}]\n"
    return parse_recipe(text)


def test_recipes_with_slices_tell_them_all_too(tmp_path, llama, write, adapter):
    base = llama()
    write(tmp_path / "base", base, CONFIG)
    adapter(tmp_path / "lora", base, [QUERY])
    (tmp_path / "empty").mkdir()
    found = lines(slices(tmp_path, "nowhere", "empty", "lora", "base"))
    told = [
        "nowhere does not exist",
        "empty holds no safetensors",
        "lora is a PEFT adapter, expected a full checkpoint",
    ]
    assert len(found) == 3 and all(word in line for word, line in zip(told, found, strict=True))
    with pytest.raises(CheckpointError, match=r"^[^\n]*empty[^\n]*$"):
        prepare(slices(tmp_path, "empty", "base"))


def test_an_adapter_of_a_slice_is_read_as_one(tmp_path, llama, write, adapter):
    base = llama()
    write(tmp_path / "base", base, CONFIG)
    adapter(tmp_path / "lora", base, [QUERY], use_dora=True)
    (tmp_path / "empty").mkdir()
    found = lines(slices(tmp_path, f"base+{tmp_path}/lora", "empty", "base"))
    assert ["use_dora is set" in found[0], "empty holds no" in found[1], len(found)] == [
        True,
        True,
        2,
    ]


def test_preflight_tells_of_all_and_opens_the_rest(server, upload, there, tmp_path):
    upload("base")
    upload("cot", 1)
    opened = preflight("org/base", ["org/cot", str(tmp_path / "nowhere")], ["cot", "x"], **there)
    assert list(opened.vectors) == ["cot"]
    assert [(one.severity, one.subject) for one in opened.problems] == [("error", "x")]
    opened = preflight(str(tmp_path / "up" / "base"), ["org/a", "org/b"], ["a", "b"], **there)
    assert [(one.subject, "is not a folder here" in one.message) for one in opened.problems] == [
        ("a", True),
        ("b", True),
    ]


def test_preflight_downloads_nothing_where_one_cannot_be_had(server, upload, there):
    upload("base")
    upload("cot", 1)
    with pytest.raises(CheckpointError, match=r"^org/nothing is not a folder here[^\n]*$"):
        preflight("org/base", ["org/cot", "org/nothing"], **there)
    assert not [name for name in server.fetched() if name.endswith(".safetensors")]


def test_preflight_without_a_base_tells_of_the_others_too(server, upload, there, tmp_path):
    with pytest.raises(MismatchError) as caught:
        preflight("org/base", ["org/cot"], **there)
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["org/base", "org/cot"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(MismatchError) as caught:
        preflight(tmp_path / "empty", [tmp_path / "nowhere"])
    assert all(
        word in line
        for word, line in zip(("empty", "nowhere"), str(caught.value).splitlines(), strict=True)
    )


def test_a_caller_cancels(tmp_path):
    """An error that is not of this package is no problem of a folder."""

    class Ended(Exception):
        pass

    def end(reference):
        raise Ended

    with pytest.raises(Ended):
        resolve_all(["org/a", "org/b"], end, end)
