"""A task whose data is neither here nor on a hub that answers is refused at once."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from evaluation import harness_tasks, task_checks
from evaluation.errors import TaskError


@pytest.fixture
def closed() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return int(port)


@pytest.fixture
def silent() -> Iterator[int]:
    """A port whose queue of connections is full, so that a new one is neither taken nor refused."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield int(server.getsockname()[1])
        for client in waiting:
            client.close()


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_checks, "getproxies", dict)


@pytest.fixture
def hub(
    closed: int, no_proxy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The network switched on, a hub that does not answer, and empty caches."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{closed}")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return monkeypatch


def test_a_task_of_the_registry_is_refused_at_once(hub: pytest.MonkeyPatch, closed: int) -> None:
    # Only the files that define the task are read: the whole registry takes 6 s and more.
    def registry() -> dict[str, object]:
        raise AssertionError("the registry was read")

    hub.setattr(harness_tasks, "_registry", registry)
    hub.setattr(datasets, "load_dataset", registry)
    for name, data in (("gsm8k", "openai/gsm8k"), ("arc_easy", "allenai/ai2_arc")):
        with pytest.raises(TaskError) as caught:
            harness_tasks.load([name])
        assert str(caught.value) == (
            f"task {name} needs the data set {data}, which is neither in the local cache nor "
            f"available: http://127.0.0.1:{closed} cannot be reached: Connection refused. Run it "
            "once with network access, set HF_HOME to a cache that holds the data, or choose a "
            "suite that needs no network: demo."
        )


def test_a_tag_is_refused_by_its_tasks_and_code_before_data(hub: pytest.MonkeyPatch) -> None:
    hub.setattr(harness_tasks, "_registry", dict)
    with pytest.raises(TaskError, match="task ai2_arc needs the data set allenai/ai2_arc, which"):
        harness_tasks.load(["ai2_arc"])
    with pytest.raises(TaskError, match="'humaneval' runs code that the model writes"):
        harness_tasks.load(["humaneval"])
    with pytest.raises(TaskError, match="unknown task 'no_such_task'"):
        harness_tasks.load(["no_such_task"])


def test_a_users_task_with_data_on_the_hub_is_refused_at_once(
    hub: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text(
        "task: mine\ndataset_path: some/data\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: q\ndoc_to_target: a\n"
    )
    begin = time.perf_counter()
    with pytest.raises(TaskError, match="task mine needs the data set some/data, which is neither"):
        harness_tasks.load(["mine"], [tmp_path / "mine"])
    assert time.perf_counter() - begin < 3


def test_local_suites_need_no_hub(hub: pytest.MonkeyPatch) -> None:
    hub.setattr(task_checks, "connection_failure", lambda *_: pytest.fail("the hub was asked"))
    assert len(harness_tasks.load(["demo"])["tasks"]) == 5


def test_what_is_on_this_disk_is_local(hub: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert task_checks.is_local("json")
    (tmp_path / "rows.json").write_text(json.dumps({"a": 1}))
    assert task_checks.is_local(str(tmp_path / "rows.json"))
    assert not task_checks.is_local("org/name")
    snapshot = tmp_path / "hub" / "datasets--org--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    assert not task_checks.is_local("org/name")  # the folder of a download that never began
    (snapshot / "data.parquet").touch()
    assert task_checks.is_local("org/name")
    built = tmp_path / "datasets" / "other___name" / "default" / "0.0.0"
    built.mkdir(parents=True)
    (built / "name-test.arrow").touch()
    assert task_checks.is_local("other/name")
    assert task_checks.out_of_reach(["json", "org/name", "other/name"]) is None


def test_connections(closed: int, silent: int, no_proxy: None) -> None:
    assert task_checks.connection_failure(f"http://127.0.0.1:{closed}", 3) == "Connection refused"
    begin = time.perf_counter()
    assert task_checks.connection_failure(f"http://127.0.0.1:{silent}", 0.3) in (
        "no answer within 0.3 s",
        "timed out",
    )
    assert time.perf_counter() - begin < 2
    assert task_checks.connection_failure("http://no-such-host.invalid", 3) is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert task_checks.connection_failure(address, 3) is None


def test_a_proxy_is_not_second_guessed(closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_checks, "getproxies", lambda: {"https": "http://proxy:1"})
    assert task_checks.connection_failure(f"http://127.0.0.1:{closed}", 3) is None


def test_offline_by_setting(hub: pytest.MonkeyPatch) -> None:
    hub.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert task_checks.out_of_reach(["org/name"]) == "the network is switched off (HF_HUB_OFFLINE)"
