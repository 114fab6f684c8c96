"""Hub ids against a server that speaks the hub's file protocol on a real socket."""

import hashlib
import importlib.util
import json
import shutil
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from merging import Checkpoint, CheckpointError, Recipe, open_recipe
from merging.inputs import hub
from merging.inputs.hub import fetch, is_hub_id, locate, probe
from merging.inputs.lora_vector import LoraVector
from merging.recipe import parse_recipe, recipe_yaml
from merging.recipe.yaml_file import relative_to

_spec = importlib.util.spec_from_file_location(
    "hub_server", Path(__file__).with_name("hub_server.py")
)
hub_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hub_server)

QUERY = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(
        constants, "HF_HUB_OFFLINE", False
    )  # tests/conftest.py switches the network off
    with hub_server.HubServer() as listening:
        yield listening
    close_session()


@pytest.fixture
def get(server, tmp_path):
    """fetch() with the server's address and a cache of the test's own."""
    return lambda reference, **more: fetch(
        reference, endpoint=server.url, cache_dir=tmp_path / "cache", **more
    )


def files_of(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def model(tmp_path, llama, write):
    """A sharded model as a repository holds it, with what must not be fetched beside it."""
    files = files_of(write(tmp_path / "upload", llama(), {"model_type": "llama"}, shards=2))
    side = [
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "merges.txt",
        "vocab.txt",
        "LICENSE",
    ]
    side += [
        "chat_template.jinja",
        "additional_chat_templates/rag.jinja",
        "generation_config.json",
        "odd[1].json",
        "source.spm",
        "bpe.codes",
        "tokenizer.model.v3",
        "1_Pooling/pooling.json",
    ]
    never = [
        "pytorch_model.bin",
        "modeling_odd.py",
        "training_args.bin",
        "README.md",
        "onnx/model.onnx",
        "x.ckpt",
    ]
    never += [
        "original/consolidated.safetensors",
        "vocabulary.pkl",
        "checkpoint-5/trainer_state.json",
        "checkpoint-5/vocab.txt",
        "consolidated.safetensors",
        ".gitattributes",
    ]
    return (
        files | {name: f"{name}: side".encode() for name in side} | dict.fromkeys(never, b"never")
    )


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
WANTED = {
    *SHARDS, "model.safetensors.index.json", "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "merges.txt", "vocab.txt", "LICENSE", "chat_template.jinja", "additional_chat_templates/rag.jinja",
    "generation_config.json", "odd[1].json", "source.spm", "bpe.codes", "tokenizer.model.v3", "1_Pooling/pooling.json",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ what a reference is


@pytest.mark.parametrize(
    "text",
    [
        "org/name",
        "org/name@main",
        "org/name@v1.0",
        "org/name@refs/pr/1",
        "o/n",
        "Org-1/na.me_2@" + 40 * "a",
        "org/n@a--b",
    ],
)
def test_ids(text):
    assert is_hub_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "name", "/org/name", "./org/name", "../name", "org/../name", "org/name/", "org/name/more", "org\\name", "org/name ",
        "org/name\n", "org//name", "org/na--me", "org/name.git", "org/name.git@main", "org/.name", "org/name-", "", "/", "@",
        "org/name@", "org/name@../../x", "org/name@/etc", "org/name@a..b", "org/name@a+b", "org/name@a@b", "org/näme",
        "~/name", "C:/name", "org/name@a/", "org/name@-x", "a" * 97 + "/n", "o/" + "n" * 5000, "org/na\0me",
        "https://host/org/name",
    ],
)  # fmt: skip
def test_texts_that_are_no_ids(text, tmp_path):
    assert not is_hub_id(text)
    assert locate(text) == Path(text)
    with pytest.raises(
        CheckpointError, match=r"is not a hub id, expected org/name or org/name@revision"
    ):
        fetch(text, cache_dir=tmp_path)


@given(
    st.text("aZ_.-/é0 \n", max_size=9) | st.from_regex(r"[\w.-]{90,99}/[\w.-]{0,3}", fullmatch=True)
)
@example("a/b.git")
@example("a/b-.git")
def test_a_name_is_an_id_where_the_library_takes_it(text):
    """Oracle: huggingface_hub's own check, which also takes names without an organisation."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        allowed = False
    else:
        allowed = "/" in text
    assert (hub.HUB_ID.fullmatch(text) is not None) == allowed


def test_what_is_here_wins(tmp_path, monkeypatch, server):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name@v1").mkdir(parents=True)
    assert not is_hub_id("org/name@v1") and is_hub_id("org/name")
    assert locate("org/name@v1") == Path("org/name@v1")
    assert server.requests == []


def test_a_missing_folder_keeps_its_message(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"nowhere does not exist\. Give the folder of a saved model"
    ):
        Checkpoint(locate(str(tmp_path / "nowhere")))


# ---------------------------------------------------------------------------------------------------------- the download


def test_a_model_is_fetched_whole_and_nothing_else_of_it(server, get, model):
    commit = server.add("org/name", model)
    got = get("org/name")
    assert got.commit == got.folder.name == commit
    assert files_of(got.folder) == {name: model[name] for name in WANTED}
    assert got.sha256 == {name: hashlib.sha256(model[name]).hexdigest() for name in SHARDS}
    assert sorted(server.fetched()) == sorted(name.rpartition("/")[2] for name in WANTED)
    assert Checkpoint(got.folder).keys() and Checkpoint(got.folder).config == {
        "model_type": "llama"
    }


def test_a_branch_a_tag_and_a_commit(server, get, model):
    first = server.add("org/name", model)
    second = server.add(
        "org/name", model | {"config.json": b'{"model_type": "other"}'}, "refs/pr/1"
    )
    assert (
        get("org/name@main").commit
        == get("org/name").commit
        == get(f"org/name@{first}").commit
        == first
    )
    assert get("org/name@refs/pr/1").commit == second
    assert Checkpoint(get(f"org/name@{second}").folder).config == {"model_type": "other"}
    server.add("org/name", model | {"config.json": b"{}"})
    assert get("org/name").commit not in (first, second)


def test_files_that_two_commits_share_are_fetched_once(server, get, model):
    server.add("org/name", model)
    get("org/name")
    server.add("org/name", model | {"config.json": b"{}"})
    server.requests.clear()
    calls = []
    get("org/name", progress=lambda done, total: calls.append((done, total)))
    assert server.fetched() == ["config.json"]
    (last,) = calls
    assert last[0] == last[1] > 0


def test_a_commit_in_the_cache_needs_no_network(server, get, model):
    commit = server.add("org/name", model)
    first = get(f"org/name@{commit}")
    server.requests.clear()
    assert get(f"org/name@{commit}") == first and server.requests == []
    assert get("org/name").commit == commit and server.fetched() == []
    server.stop()
    assert get(f"org/name@{commit}") == get("org/name") == first
    assert get("org/name", offline=True) == first


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server, get, model, monkeypatch):
    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", 257
    )  # whole chunks are kept: 3 of 257 bytes are in 1009
    server.add("org/name", model)
    server.cut[SHARDS[1]] = [1009]
    got = get("org/name")
    assert (got.folder / SHARDS[1]).read_bytes() == model[SHARDS[1]]
    ranges = [
        request.range
        for request in server.requests
        if SHARDS[1] in request.path and "/large/" in request.path
    ]
    assert [given for given in ranges if given] == ["bytes=771-"]


def test_a_download_that_was_ended_goes_on_with_what_is_missing(server, get, model):
    class Ended(Exception):
        pass

    def end(done, total):
        raise Ended

    server.add("org/name", model)
    with pytest.raises(Ended):
        get("org/name", progress=end)
    before = set(server.fetched())
    assert {"config.json", "model.safetensors.index.json"} <= before
    server.requests.clear()
    got = get("org/name")
    assert files_of(got.folder) == {name: model[name] for name in WANTED}
    assert not {"config.json", "model.safetensors.index.json"} & set(server.fetched())


def test_progress_counts_the_bytes_that_were_missing(server, get, model):
    server.add("org/name", model)
    calls = []
    get("org/name", progress=lambda done, total: calls.append((done, total)))
    total = sum(
        len(model[name]) for name in WANTED - {"config.json", "model.safetensors.index.json"}
    )
    assert {total for _, total in calls} == {total}
    assert calls[-1] == (total, total) and calls == sorted(calls) and 0 < calls[0][0] < total
    calls.clear()
    get("org/name", progress=lambda done, total: calls.append((done, total)))
    assert calls == []


def test_the_library_draws_no_bar(server, get, model, capfd):
    server.add("org/name", model)
    get("org/name")
    assert capfd.readouterr() == ("", "")


# -------------------------------------------------------------------------------------------------------------- refusals


def refusal(get, reference="org/name", **more):
    """The message of the refusal, one line, with no weights fetched and no trace of the library in it."""
    with pytest.raises(CheckpointError) as caught:
        get(reference, **more)
    message = str(caught.value)
    assert "\n" not in message and "Error(" not in message and "Traceback" not in message
    return message


def test_an_unknown_model(server, get):
    assert refusal(get, "org/nme") == (
        f"org/nme is not a folder here, and {server.url} has no model org/nme that you may see. Check the name; if it is "
        "private, log in with `hf auth login` or set HF_TOKEN."
    )


def test_an_unknown_revision(server, get, model):
    server.add("org/name", model)
    for revision in ("v9", "refs/pr/7", 40 * "b"):
        assert refusal(get, f"org/name@{revision}") == (
            f"org/name has no revision '{revision}' at {server.url}, expected a branch, a tag or a full commit hash."
        )
    assert server.fetched() == []


def test_a_gated_model_needs_a_token_which_the_large_files_host_never_sees(
    server, get, model, monkeypatch
):
    server.add("org/name", model)
    server.repos["org/name"].gated = True
    assert refusal(get) == (
        f"org/name is gated: ask for access at {server.url}/org/name with your account, then log in with "
        "`hf auth login` or set HF_TOKEN."
    )
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    get("org/name")
    tokens = {request.path.startswith("/large/"): request.token for request in server.requests}
    assert tokens == {True: None, False: "Bearer hf_planted"}


@pytest.mark.parametrize("at", ["/api/models/org/name/revision", "/resolve/"])
def test_no_permission(server, get, model, at):
    server.add("org/name", model)
    server.status[at] = 403
    assert (
        "does not let you read org/name (status 403): log in with `hf auth login` or set HF_TOKEN"
        in refusal(get)
    )


def test_a_hub_that_is_out_of_order(server, get, model):
    server.add("org/name", model)
    server.status["/api/"] = 500
    assert "answered with status 500. Try again later." in refusal(get)


def test_no_network(server, get, model, tmp_path):
    server.add("org/name", model)
    server.stop()
    message = refusal(get)
    assert message.startswith(
        f"org/name is not a folder here and not complete in the cache ({tmp_path / 'cache'}), and "
    )
    assert (
        f"{server.url} cannot be reached or the connection broke" in message
        and "Connection refused" in message
    )


def test_a_network_that_is_switched_off(server, get, model, monkeypatch):
    server.add("org/name", model)
    told = "the network is switched off (HF_HUB_OFFLINE). Fetch it once with the network on."
    assert told in refusal(get, offline=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert told in refusal(get)
    assert server.requests == []


def test_a_connection_that_is_reset(get, tmp_path):
    """A server that hangs up without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up():
            connection, _ = listening.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(
            CheckpointError,
            match=r"cannot be reached or the connection broke \(.+\)\. Check the network and run the same command",
        ):
            fetch(
                "org/name",
                endpoint=f"http://127.0.0.1:{listening.getsockname()[1]}",
                cache_dir=tmp_path,
            )
        thread.join()


def test_errors_without_a_class_of_their_own(tmp_path):
    """What httpx raises in a thread whose client another has closed; a caller's own error passes."""

    class Ended(RuntimeError):
        pass

    where = hub._parse("org/name", "http://hub", tmp_path)
    told = r"cannot be reached or the connection broke \(the client has been closed\)"
    with pytest.raises(CheckpointError, match=told), hub._readable_errors(where):
        raise RuntimeError("the client has been closed")
    with pytest.raises(Ended), hub._readable_errors(where):
        raise Ended


def test_a_cache_that_cannot_be_written(server, get, model, tmp_path):
    server.add("org/name", model)
    (tmp_path / "cache").write_text("a file where the cache should be")
    assert f"org/name could not be downloaded into {tmp_path / 'cache'}: " in refusal(get)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pytorch_model.bin": b"p"}, "holds only pickle weights (pytorch_model.bin) and no safetensors. Pickles can run"),
        ({"a.safetensors": b"", "b.safetensors": b""}, "holds a.safetensors, b.safetensors, but no model.safetensors,"),
        ({"adapter_config.json": b"{}", "odd.safetensors": b""}, "holds odd.safetensors, but no model.safetensors, ada"),
        ({"q4.gguf": b"q"}, "holds no safetensors weights (config.json, q4.gguf)."),
        ({"sub/model.safetensors": b""}, "holds no safetensors weights (config.json)."),
    ],
)  # fmt: skip
def test_a_model_without_safetensors(server, get, files, message):
    server.add("org/name", {"config.json": b"{}"} | files)
    assert message in refusal(get) and {*server.fetched()} <= {"config.json", "adapter_config.json"}


def test_an_empty_repository(server, get, caplog):
    server.add("org/name", {})
    assert refusal(get) == "org/name holds no safetensors weights (it is empty)."


def test_two_models_in_one_repository(server, get, model):
    server.add("org/name", model | {"model.safetensors": b"stale"})
    assert (
        "holds model.safetensors and shards with an index: two models in one repository"
        in refusal(get)
    )
    assert not set(server.fetched()) & {*SHARDS, "model.safetensors"}


def test_an_index_that_names_what_is_not_there(server, get, model):
    server.add("org/name", {name: body for name, body in model.items() if name != SHARDS[0]})
    assert (
        f"model.safetensors.index.json names {SHARDS[0]}, which the repository does not have"
        in refusal(get)
    )
    assert SHARDS[1] not in server.fetched()


def test_an_index_that_points_elsewhere_is_not_followed(server, get, model):
    index = json.dumps({"weight_map": {"lm_head.weight": "../other/model.safetensors"}}).encode()
    server.add("org/name", model | {"model.safetensors.index.json": index})
    assert "An index that points elsewhere is not followed" in refusal(get)


# ------------------------------------------------------------------------------------------------ other kinds of model


def test_a_single_file_of_any_name(server, get, model):
    weights = model[SHARDS[0]]
    server.add(
        "org/one",
        {"config.json": b"{}", "model.safetensors": weights, "other.safetensors": b"never"},
    )
    server.add("org/odd", {"odd.safetensors": weights})
    assert set(files_of(get("org/one").folder)) == {"config.json", "model.safetensors"}
    assert list(Checkpoint(get("org/odd").folder)) == list(Checkpoint(get("org/one").folder))


def test_the_modules_of_an_embedder_are_fetched_with_their_weights(server, get, model):
    modules = json.dumps([{"path": ""}, {"path": "2_Dense"}, {"path": "3_Dense"}]).encode()
    files = {
        "config.json": b"{}",
        "model.safetensors": model[SHARDS[0]],
        "modules.json": modules,
        "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": model[SHARDS[1]],
        "3_Dense/model-1.safetensors": model[SHARDS[1]],
        "3_Dense/model.safetensors.index.json": json.dumps(
            {"weight_map": dict.fromkeys(_names(model[SHARDS[1]]), "model-1.safetensors")}
        ).encode(),
    }
    server.add("org/st", files | {"onnx/model.onnx": b"never", "2_Dense/pytorch_model.bin": b"no"})
    got = get("org/st")
    assert files_of(got.folder) == files
    assert Checkpoint(got.folder).folders == ("2_Dense", "3_Dense")
    server.add(
        "org/old",
        {
            "modules.json": modules,
            "config.json": b"{}",
            "model.safetensors": b"w",
            "2_Dense/pytorch_model.bin": b"p",
        },
    )
    assert "org/old: 2_Dense is a part of the model and holds pytorch_model.bin" in refusal(
        get, "org/old"
    )
    index = json.dumps({"unet": ["diffusers", "UNet"]}).encode()
    server.add("org/pipe", {"model_index.json": index, "unet/model.safetensors": b"w"})
    assert "holds no weights on top, only in its parts: unet." in refusal(get, "org/pipe")


def _names(safetensors):
    header = json.loads(safetensors[8 : 8 + int.from_bytes(safetensors[:8], "little")])
    return [name for name in header if name != "__metadata__"]


def test_a_side_file_of_the_hub_that_is_too_large_is_not_fetched(server, get, model, monkeypatch):
    monkeypatch.setattr("merging.folder_files.FILE_BYTES", 10)
    server.add(
        "org/name",
        {name: model[name] for name in SHARDS}
        | {
            "model.safetensors.index.json": model["model.safetensors.index.json"],
            "a.txt": b"short",
            "b.txt": b"longer than ten",
        },
    )
    assert set(files_of(get("org/name").folder)) == {
        *SHARDS,
        "model.safetensors.index.json",
        "a.txt",
    }


def test_an_adapter(server, get, tmp_path, llama, adapter, write):
    base = llama()
    files = files_of(adapter(tmp_path / "upload", base, [QUERY]))
    server.add(
        "org/lora", files | {"adapter_model.bin": b"never", "checkpoint.safetensors": b"never"}
    )
    folder = get("org/lora").folder
    assert files_of(folder) == files
    assert list(LoraVector(folder, Checkpoint(write(tmp_path / "base", base)))) == [
        f"{QUERY}.weight"
    ]
    server.add("org/both", files | {"model.safetensors": b"w"})
    assert set(files_of(get("org/both").folder)) == {*files, "model.safetensors"}
    index = json.dumps({"weight_map": {"a": "model-1.safetensors"}}).encode()
    shards = {"model.safetensors.index.json": index, "model-1.safetensors": b"w"}
    server.add("org/shards", files | shards)
    assert set(files_of(get("org/shards").folder)) == {*files, *shards}
    server.add("org/pickled", {"adapter_config.json": b"{}", "adapter_model.bin": b"p"})
    assert "holds only pickle weights (adapter_model.bin)" in refusal(get, "org/pickled")


# ------------------------------------------------------------------------------------ a cache that another tool filled


@pytest.fixture
def unlisted(server, get, model, tmp_path):
    """A snapshot without the list of the commit's files, as from_pretrained leaves it."""
    commit = server.add("org/name", model)
    source = get("org/name").folder
    repo = tmp_path / "elsewhere" / "models--org--name"
    shutil.copytree(source.parents[1], repo, symlinks=True)
    shutil.rmtree(repo / "trees")
    server.stop()
    return repo / "snapshots" / commit


def test_it_is_used_when_the_weights_are_complete(server, unlisted):
    got = fetch("org/name", endpoint=server.url, cache_dir=unlisted.parents[2])
    assert got.folder == unlisted and set(got.sha256) == set(SHARDS)
    assert fetch(f"org/name@{got.commit}", offline=True, cache_dir=unlisted.parents[2]) == got


@pytest.mark.parametrize("lost", ["one shard", "all weights"])
def test_it_is_refused_when_weights_are_missing(server, unlisted, lost):
    for name in ["model.safetensors.index.json", *SHARDS] if lost == "all weights" else SHARDS[:1]:
        (unlisted / name).unlink()
    with pytest.raises(
        CheckpointError, match=r"org/name: the cache holds only a part of it .*Fetch it once"
    ):
        fetch("org/name", endpoint=server.url, cache_dir=unlisted.parents[2])


@contextmanager
def mute(answers=False):
    """A server that hangs up without an answer, or keeps silent: its address, and a list that grows by each connection."""
    met = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def receive():
            while True:
                connection, _ = listening.accept()
                if ended.is_set():
                    return connection.close()
                met.append(connection)
                if answers:
                    connection.recv(65536)
                    connection.sendall(
                        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )
                if not silent.is_set():
                    connection.close()

        ended, silent = threading.Event(), threading.Event()
        thread = threading.Thread(target=receive)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", met, silent
        finally:
            ended.set()
            socket.create_connection(listening.getsockname()).close()
            thread.join()
            for connection in met:
                connection.close()


@pytest.mark.parametrize("revision", ["main", "commit"])
@pytest.mark.parametrize("trouble", ["hangs up", "keeps silent", "is out of order"])
def test_a_hub_that_does_not_answer_is_asked_once_where_the_cache_has_the_model(
    unlisted, monkeypatch, revision, trouble
):
    """Without the one question the library asked six times for the list of a commit's files, over 23 s."""
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    reference = f"org/name@{unlisted.name if revision == 'commit' else revision}"
    with mute(answers=trouble == "is out of order") as (url, met, silent):
        if trouble == "keeps silent":
            silent.set()
        got = fetch(reference, endpoint=url, cache_dir=unlisted.parents[2])
        assert (got.folder, len(met)) == (unlisted, 1)
        (unlisted / SHARDS[0]).unlink()
        with pytest.raises(CheckpointError, match="the cache holds only a part of it"):
            fetch(reference, endpoint=url, cache_dir=unlisted.parents[2])
        assert len(met) == 2


def test_a_hub_that_keeps_silent_about_a_model_that_is_not_here(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with mute() as (url, met, silent):
        silent.set()
        with pytest.raises(
            CheckpointError,
            match=r"cannot be reached or the connection broke \(.*timed out.*\)\. Check the network",
        ):
            fetch("org/name", endpoint=url, cache_dir=tmp_path)
        assert len(met) == 1


def test_a_listed_snapshot_with_a_file_missing_names_what_kept_the_hub_from_answering(
    server, get, model
):
    server.add("org/name", model)
    (get("org/name").folder / SHARDS[0]).unlink()
    server.stop()
    assert "Connection refused" in refusal(get)


# -------------------------------------------------------------------------------------------------------------- questions


def test_asking_fetches_no_weights_and_refuses_what_fetching_would(server, get, model, tmp_path):
    server.add("org/name", model)
    server.add("org/pickled", {"config.json": b"{}", "pytorch_model.bin": b"p"})
    server.add("org/gated", model)
    server.repos["org/gated"].gated = True
    where = {"endpoint": server.url, "cache_dir": tmp_path / "cache"}
    probe("org/name", **where)
    assert set(server.fetched()) == {"config.json", "model.safetensors.index.json"}
    for reference in ("org/nowhere", "org/name@v9", "org/pickled", "org/gated"):
        with pytest.raises(CheckpointError) as asked:
            probe(reference, **where)
        assert str(asked.value) == refusal(get, reference)
    server.requests.clear()
    probe(str(tmp_path), **where)
    probe("no id at all", **where)
    assert server.requests == []


# ----------------------------------------------------------------------------------------------------------- in a recipe


def test_a_recipe_of_hub_ids_is_opened(server, get, tmp_path, llama, tuned, adapter, write):
    base = llama()
    server.add("org/base", files_of(write(tmp_path / "up1", base, {"model_type": "llama"})))
    server.add(
        "org/cot", files_of(write(tmp_path / "up2", tuned(base, 1), {"model_type": "llama"})), "v2"
    )
    server.add("org/lora", files_of(adapter(tmp_path / "up3", base, [QUERY])))
    text = """
merge_method: task_arithmetic
base_model: org/base
models:
  - {model: org/cot@v2, parameters: {weight: 0.5}}
  - {model: org/base+org/lora@main, parameters: {weight: 0.25}}
"""
    recipe = relative_to(parse_recipe(text), tmp_path)
    assert recipe == parse_recipe(recipe_yaml(recipe))
    assert [recipe.base, *(source.location for source in recipe.models)] == [
        "org/base",
        "org/cot@v2",
        "org/lora@main",
    ]
    opened, vectors = open_recipe(recipe, lambda reference: get(reference).folder)
    assert opened.path.name == server.repos["org/base"].refs["main"] and list(vectors) == [
        "cot@v2",
        "lora@main",
    ]
    assert isinstance(vectors["lora@main"], LoraVector)


def test_locate_looks_where_the_environment_says(server, get, model, tmp_path, monkeypatch):
    commit = server.add("org/name", model)
    folder = get("org/name").folder
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server.requests.clear()
    assert locate("org/name") == locate(f"org/name@{commit}") == folder
    assert [request.path for request in server.requests] == ["/api/models/org/name/revision/main"]


def test_a_recipe_beside_its_folders_means_these(tmp_path):
    (tmp_path / "org" / "base").mkdir(parents=True)
    recipe = relative_to(Recipe.compose("org/base", {"cot": "org/cot@v2"}), tmp_path)
    assert recipe.base == str(tmp_path / "org/base") and recipe.models[0].path == "org/cot@v2"
