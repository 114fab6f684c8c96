"""The routes of the live line over HTTP: whole answers, wrong clients, logins, restarts."""

import asyncio
import json
import threading

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from workbench.line.routes import routes
from workbench.session.standing import Standing


def app_of(session, auth=None):
    line, live = routes(session)
    app = FastAPI(routes=live)
    # What gradio's application has; a test in the browser logs in to the real one.
    app.auth, app.auth_dependency, app.tokens, app.cookie_id = auth, None, {}, "id"
    app.line = line
    return app


@pytest.fixture
def app(session):
    made = app_of(session)
    yield made
    made.line.close()


@pytest.fixture
def client(app):
    return TestClient(app)


def wish(client, turn=1, page="page-1234", **more):
    info = client.get("/live/open").json()
    return {
        "page": page,
        "turn": turn,
        "models": info["models"],
        "method": "task_arithmetic",
        "parameters": {},
        "omegas": {},
        **more,
    }


def answers(client, document):
    reply = client.post("/live/move", json=document)
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def test_a_move_is_settled_then_quick_then_full(client, session):
    name = session.models.names[0]
    lines = answers(client, wish(client, omegas={name: 0.127}))
    stages = [line["stage"] for line in lines]
    assert stages[0] == "settled"
    assert stages.index("quick") < stages.index("full")
    assert all(line["turn"] == 1 for line in lines)
    recipe = session.recall(lines[0]["digest"])
    assert recipe.omegas[name] == 0.127
    full = [line for line in lines if line["stage"] == "full"][-1]
    assert full["whole"] is True
    measured = session.losses(recipe)
    assert {key: point["loss"] for key, point in full["points"].items()} == {
        key: pytest.approx(loss.value) for key, loss in measured.items()
    }
    (command,) = [line for line in lines if line["stage"] == "command"]
    assert "dem loss" in command["command"]
    assert lines[-1]["stage"] == "learned"


def test_the_live_module_holds_what_was_settled(client, session):
    name = session.models.names[0]
    lines = answers(client, wish(client, omegas={name: 0.5}))
    recipe = session.recall(lines[0]["digest"])
    with session.composed(session.models, recipe) as module:
        live = {key: value.clone() for key, value in module.state_dict().items()}
    session.compose(session.recipe({}))
    with session.composed(session.models, session.recipe({name: 0.5})) as module:
        again = module.state_dict()
        assert all(again[key].equal(value) for key, value in live.items())


def test_a_prompt_is_answered_by_the_composition(client):
    lines = answers(client, wish(client, prompt="Question: 2 + 3?"))
    said = [line for line in lines if line["stage"] == "answer"]
    assert said[-1]["growing"] is False
    assert {line["form"] for line in said} == {"as plain text"}  # the base has no chat template
    assert not any(line["problem"] for line in said)
    assert said[-1]["digest"] == lines[0]["digest"]


def test_an_answer_begins_before_the_quick_losses_are_there(client, session):
    name = session.models.names[0]
    for turn, omega in enumerate((0.31, 0.32)):  # first with unknown ends of the axes
        lines = answers(client, wish(client, turn, omegas={name: omega}, prompt="Question: 2 + 3?"))
        stages = [line["stage"] for line in lines]
        assert stages[0] == "settled"
        assert stages.index("answer") < stages.index("quick") < stages.index("full")
        assert [line["growing"] for line in lines if line["stage"] == "answer"][-1] is False


def test_an_older_wish_is_dropped_and_a_newer_one_overtakes(client, app, session):
    answers(client, wish(client, turn=5))
    assert answers(client, wish(client, turn=4))[0]["stage"] == "stale"
    got, over = [], threading.Event()

    def send(message):
        got.append(message)
        if message is None:
            over.set()

    from workbench.line.contract import wish_of

    app.line.start(wish_of(wish(client, turn=6, omegas={session.models.names[0]: 0.9})), send)
    newer = answers(client, wish(client, turn=7))
    assert over.wait(10)
    assert newer[0]["stage"] == "settled"
    assert all(message is None or message["turn"] == 6 for message in got)


def test_pages_do_not_disturb_each_other(client):
    one = answers(client, wish(client, turn=9, page="page-aaaa"))
    two = answers(client, wish(client, turn=1, page="page-bbbb"))
    assert [one[0]["stage"], two[0]["stage"]] == ["settled", "settled"]


def test_a_wish_for_other_models_composes_nothing(client, session):
    answers(client, wish(client, turn=1, omegas={session.models.names[0]: 0.5}))
    before = session.models.composer._live.recipe
    lines = answers(client, wish(client, turn=2, models="others"))
    assert [line["stage"] for line in lines] == ["behind"]
    assert lines[0]["models"] == session.models.key
    assert session.models.composer._live.recipe is before


def test_what_cannot_be_composed_is_refused_in_words_and_the_page_lives_on(client, session):
    name = session.models.names[0]
    for turn, more in enumerate(
        (
            {"omegas": {name: 2.5}},
            {"omegas": {name: "much"}},
            {"omegas": {"nobody": 1}},
            {"method": "magic"},
            {"method": "ties", "parameters": {"density": None}},
            {"method": "ties", "parameters": {"density": 7}},
            {"method": "karcher"},
        ),
        start=1,
    ):
        lines = answers(client, wish(client, turn=turn, **more))
        assert [line["stage"] for line in lines] == ["refused"]
        assert len(lines[0]["message"]) > 20 and "server log" not in lines[0]["message"]
    assert answers(client, wish(client, turn=99))[0]["stage"] == "settled"


def test_a_fault_of_ours_is_logged_and_not_shown(client, session, monkeypatch, caplog):
    monkeypatch.setattr(
        type(session.models.composer), "check", lambda self, recipe: 1 / 0, raising=True
    )
    lines = answers(client, wish(client))
    assert "server log" in lines[0]["message"]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"turn": NaN}',
        b"[" * 100_000,
        b'{"page": "' + b"x" * 300_000,
        "ü".encode("latin-1"),
    ],
)
def test_a_client_that_speaks_wrongly_gets_one_sentence(client, body):
    for path in ("/live/move", "/live/keep"):
        reply = client.post(path, content=body)
        assert reply.status_code == 400
        assert reply.json()["error"]


@pytest.mark.parametrize("path", ["/live/move", "/live/keep"])
@pytest.mark.parametrize("first", [b"", b'{"page": "abc'])
def test_a_page_that_leaves_in_the_middle_of_a_message_is_no_fault(app, path, first):
    pieces = [{"type": "http.request", "body": first, "more_body": True}] if first else []
    arrives = iter([*pieces, {"type": "http.disconnect"}])
    sent = []

    async def receive():
        return next(arrives)

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "server": ("testserver", 80),
        "client": ("testclient", 1),
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert b"broken off" in sent[1]["body"]


def test_nan_from_a_page_is_refused_whatever_the_way_in(client, session):
    name = session.models.names[0]
    text = json.dumps(wish(client)).replace('"omegas": {}', f'"omegas": {{"{name}": NaN}}')
    assert client.post("/live/move", content=text).status_code == 400
    before = session.standing
    state = {"method": "task_arithmetic", "parameters": {}, "omegas": {name: 1e999}}
    document = {"page": "page-1234", "models": session.models.key, "state": state}
    assert client.post("/live/keep", content=json.dumps(document)).status_code == 400
    assert session.standing == before


def test_a_kept_state_comes_back_in_this_page_a_second_tab_and_after_a_restart(
    client, app, session
):
    name = session.models.names[0]
    state = {
        "method": "ties",
        "parameters": {"density": 0.3},
        "omegas": {name: 0.127},
        "past": [{"method": "task_arithmetic", "parameters": {}, "omegas": {}}],
    }
    document = {"page": "page-1234", "models": session.models.key, "state": state}
    digest = client.post("/live/keep", json=document).json()["digest"]
    assert session.recall(digest).method == "ties"
    for again in (app, app_of(session)):  # the second one is a server that was started anew
        page = TestClient(again)
        same = page.get("/live/open", params={"page": "page-1234"}).json()["state"]
        assert same["past"] == state["past"] and same["omegas"][name] == 0.127
        other = page.get("/live/open", params={"page": "page-5678", "recipe": digest}).json()
        assert other["state"]["parameters"] == {"density": 0.3}
        assert "past" not in other["state"]
        if again is not app:
            again.line.close()


def test_a_state_of_other_models_is_not_shown_under_these_names(client, app, session):
    kept = {"models": "others", "method": "task_arithmetic", "parameters": {}, "omegas": {"x": 1}}
    app.line.states.keep("page-1234", kept, "abcd", kept)
    info = client.get("/live/open", params={"page": "page-1234", "recipe": "abcd"}).json()
    assert set(info["state"]["omegas"]) == set(session.models.names)
    assert "other models" in info["note"]
    unknown = client.get("/live/open", params={"recipe": "ffff"}).json()
    assert "not known" in unknown["note"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"page": "page-1234", "models": "others", "state": {"method": "ties"}},
        {"page": "x", "models": None, "state": 5},
    ],
)
def test_a_state_of_another_form_is_not_kept(client, document):
    assert client.post("/live/keep", json=document).status_code == 400


def test_a_server_with_a_login_answers_nobody_else(session):
    app = app_of(session, auth={"ada": "secret"})
    client = TestClient(app)
    try:
        for path in ("/live/here", "/live/open"):
            assert client.get(path).status_code == 401
        assert client.post("/live/move", json={}).status_code == 401
        app.tokens["token"] = "ada"
        client.cookies.set("access-token-id", "token")
        assert client.get("/live/here").json()["models"] == session.models.key
    finally:
        app.line.close()


def test_a_page_before_the_models_are_open_is_told_so(tmp_path):
    from workbench.session.session import Session

    session = Session([], tmp_path / "workdir")
    app = app_of(session)
    client = TestClient(app)
    try:
        assert client.get("/live/here").json() == {"models": "", "search": None}
        assert client.get("/live/open").json()["loading"] is True
        session.open_demo()
        assert client.get("/live/open").json()["loading"] is False
        document = {"page": "page-1234", "turn": 1, "models": "", "method": "ties"}
        lines = answers(client, document | {"parameters": {}, "omegas": {}})
        assert lines[0]["stage"] == "empty"
    finally:
        app.line.close()
        session.close()


def test_only_so_many_pages_are_remembered(app, client, monkeypatch):
    monkeypatch.setattr("workbench.line.routes.PAGES", 2)
    for number in range(5):
        app.line._page(f"page-{number}")
    assert len(app.line._pages) == 2


def test_a_new_page_begins_at_the_standing_of_the_session(client, session):
    name = session.models.names[0]
    session.settle(Standing((0.4, *(0.0,) * (len(session.models.names) - 1))))
    assert client.get("/live/open").json()["state"]["omegas"][name] == 0.4
