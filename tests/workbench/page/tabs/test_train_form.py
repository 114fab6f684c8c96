"""The fields of the train tab and the plan's text: each change touches its own keys, and what it wrote is read back."""

import gradio as gr
import pytest

from corpus import Example, write_jsonl
from training.plan.faults import PlanError
from workbench.errors import SessionError
from workbench.page.tabs import train, train_display
from workbench.plans import plan_files, plan_form, plan_text
from workbench.session.session import Session

EDITED = """base: b
sources: {math: {path: data/math, share: 1/2}, code: data/code}
settings: {epochs: 3, rate: 1e-3, lora: {rank: 8, alpha: 4}, group_by: task}
schedule: {kind: experts, settings: {seed: 5}, each: {math: {rate: 1e-4}}}
subset_seed: 7
"""


def set_schedule(text, *fields):
    return plan_form.set_schedule(text, plan_form.ScheduleFields(*fields))


def read(text):
    """Keys and values, with 1e-3 as a number."""
    return plan_text.document(text)


def test_a_new_plan_has_one_checkpoint_per_source():
    text = plan_text.new("models/base", {"math": "data/math"}, {})
    assert read(text) == {
        "base": "models/base", "sources": {"math": "data/math"}, "settings": {"epochs": 1, "rate": 6e-4, "batch": 32},
        "schedule": {"kind": "experts"},
    }  # fmt: skip
    assert read(plan_text.new("", {}, {})).keys() == {"settings", "schedule"}


def test_each_change_leaves_the_rest_as_it_was():
    before = read(EDITED)
    after = read(plan_text.with_settings(EDITED, batch=16))
    assert after == before | {"settings": before["settings"] | {"batch": 16}}
    after = read(plan_text.with_settings(EDITED, epochs=None, steps=9))
    assert "epochs" not in after["settings"] and after["settings"]["steps"] == 9
    assert read(plan_text.with_base(EDITED, "other")) == before | {"base": "other"}
    after = read(
        plan_text.with_sources(
            EDITED, {"math": "data/math", "chat": "c.jsonl"}, {"chat": "c.jsonl"}
        )
    )
    assert after["sources"] == {"math": {"path": "data/math", "share": "1/2"}, "chat": "c.jsonl"}
    assert after["validation"] == {"chat": "c.jsonl"} and after["subset_seed"] == 7
    after = read(plan_text.with_schedule(EDITED, {"kind": "sequential", "order": ["code", "math"]}))
    assert after["schedule"] == {
        "kind": "sequential",
        "order": ["code", "math"],
        "settings": {"seed": 5},
    }
    for broken in ("a: [", "just words"):
        with pytest.raises(PlanError):
            plan_text.with_base(broken, "other")


def test_a_field_that_says_nothing_new_leaves_the_text_with_its_comments():
    text = "# mine\nsources: {a: x}\nsettings: {rate: 1e-3}  # as in the paper\nschedule: {kind: experts}\n"
    assert (
        plan_text.with_settings(text, rate=1e-3, batch=32, seed=0, steps=None) == text
    )  # 32 and 0 are the defaults
    assert plan_text.with_sources(text, {"a": "x"}, {}) == text
    assert set_schedule(text, "experts", [], "", "", False) == text
    assert plan_form.set_adapter_rank(text, 0) == text
    assert "mine" not in plan_text.with_settings(text, rate=2e-3)
    kept = plan_form.set_adapter_rank("settings: {lora: {rank: 8, alpha: 4}}", 16.0)
    assert read(kept) == {"settings": {"lora": {"rank": 16, "alpha": 4}}}


def test_shares_and_proportions_are_read_from_a_line():
    assert plan_text.parse_numbers("1/256, 1/64 1 0.5") == ["1/256", "1/64", 1, 0.5]
    assert plan_text.parse_numbers("") == plan_text.parse_numbers(None) == []
    assert plan_text.parse_shares("math 1, code: 1/4\n chat=0.5", ["math", "code", "chat"]) == {
        "math": 1, "code": "1/4", "chat": 0.5,
    }  # fmt: skip
    with pytest.raises(
        SessionError,
        match="'other 1' is not a source with its share, such as math 1/4. Sources: math.",
    ):
        plan_text.parse_shares("other 1", ["math"])
    with pytest.raises(SessionError, match="Sources: none is chosen yet"):
        plan_text.parse_shares("math", [])


SOURCES = "sources: {math: a, code: b, chat: c}\nschedule: {kind: experts}\n"


@pytest.mark.parametrize(
    ("kind", "special", "shares", "k", "single", "expected"),
    [
        ("experts", [], "", "", False, {"kind": "experts"}),
        ("mixing", [], "math 1, code 1/4", "", False, {"kind": "mixing", "shares": {"math": 1, "code": "1/4"}}),
        ("sequential", [], "", "", False, {"kind": "sequential", "order": ["math", "code", "chat"]}),
        (
            "dmt", ["math", "code"], "ignored", "1/256", False,
            {"kind": "dmt", "special": ["math", "code"], "general": ["chat"], "k": "1/256"},
        ),
        (
            "mixed_sequential", ["code", "gone"], "", "1", False,
            {"kind": "mixed_sequential", "special": ["code"], "general": ["math", "chat"]},
        ),
        (
            "proportions", [], "chat 1", "1 1/4", True,
            {"kind": "proportions", "k": [1, "1/4"], "hold": {"chat": 1}, "single": True},
        ),
    ],
)  # fmt: skip
def test_a_kind_writes_its_own_keys_and_they_are_shown_again(
    kind, special, shares, k, single, expected
):
    text = set_schedule(SOURCES, kind, special, shares, k, single)
    assert read(text)["schedule"] == expected
    shown = train_display._schedule_updates(read(text)["schedule"], ["math", "code", "chat"])
    fields = [None, *(one["value"] for one in shown[1:])]
    assert (
        shown[0] == kind and read(set_schedule(SOURCES, kind, *fields[1:]))["schedule"] == expected
    )
    visible = [one["visible"] for one in train_display.schedule_fields(kind)]
    assert visible == [
        kind in ("dmt", "mixed_sequential"), kind in ("mixing", "proportions"), kind in ("dmt", "proportions"),
        kind == "proportions",
    ]  # fmt: skip


def test_a_schedule_that_the_fields_cannot_show_leaves_them():
    for given in ([{"kind": "experts"}], {"kind": "unknown"}, None):
        assert train_display._schedule_updates(given, []) == [gr.skip()] * 5
    shown = train_display._schedule_updates(
        {"kind": "dmt", "special": "math", "k": "1/2"}, ["math"]
    )
    assert shown[1]["value"] == [] and shown[3]["value"] == "1/2"


def test_lengths_and_names():
    assert read(plan_form.set_length("settings: {epochs: 3}", "steps", 20.0)) == {
        "settings": {"steps": 20}
    }
    assert read(plan_form.set_length("settings: {steps: 3}", "epochs", 0.5)) == {
        "settings": {"epochs": 0.5}
    }
    assert (
        plan_form.parse_rate("2e-5") == 2e-5
        and plan_form.parse_rate("") is None
        and plan_form.parse_rate("fast") == "fast"
    )


def test_sources_get_the_names_of_their_folders_and_keep_those_they_have(tmp_path):
    for name in ("one", "two/one", "héllo wörld"):
        write_jsonl(tmp_path / name / "train.jsonl", [Example("a", "b")])
    write_jsonl(tmp_path / "one" / "validation.jsonl", [Example("a", "b")])
    paths = [str(tmp_path / name) for name in ("one", "two/one", "héllo wörld")]
    text = plan_form.set_sources(f"sources: {{mine: {paths[1]}}}", paths, lambda _: True)
    found = read(text)
    assert found["sources"] == {"one": paths[0], "mine": paths[1], "h-llo-w-rld": paths[2]}
    assert found["validation"] == {"one": paths[0]}
    assert list(read(plan_form.set_sources("", paths, lambda _: True))["sources"]) == [
        "one",
        "one-2",
        "h-llo-w-rld",
    ]
    assert plan_form.source_name(tmp_path / "ü", ()) == "source"


def test_the_fields_follow_the_text_and_say_what_is_wrong(world, tmp_path):
    session = Session([tmp_path / "data"], tmp_path / "workdir", demo=world)
    write_jsonl(
        tmp_path / "data" / "math" / "train.jsonl", [Example(f"{n}", f" {n}") for n in range(9)]
    )
    try:
        text = (
            f"base: {world / 'base'}\nsources: {{math: {tmp_path / 'data' / 'math'}}}\n"
            "settings: {steps: 5, rate: 2e-5, lora: 4, precision: fp32, seed: 3}\nschedule: {kind: experts}\n"
        )
        base, sources, kind, *_, said = shown = train_display.field_updates(session, text)
        assert base.value == str(world / "base") and sources["value"] == [
            str(tmp_path / "data" / "math")
        ]
        assert kind == "experts" and shown[7:17] == [
            "steps",
            5,
            "2e-05",
            32,
            1,
            4,
            "fp32",
            3,
            None,
            "",
        ]
        assert "1 step: math" in said
        wrong = train_display.field_updates(
            session, text.replace("rate", "rte").replace("experts", "expert")
        )[-1]
        assert (
            'role="alert"' in wrong
            and "line 3, settings.rte" in wrong
            and "line 4, schedule.kind" in wrong
        )
        assert "plan, line" not in wrong
        broken = train_display.field_updates(session, "a: [")
        assert (
            broken[2:-1] == [gr.skip()] * (train_display.FIELDS - 3)
            and "not valid YAML" in broken[-1]
        )
        hostile = train_display.field_updates(session, text.replace("experts", "'<img src=x>'"))[-1]
        assert "<img" not in hostile and "&lt;img" in hostile
        assert (
            "Choose" not in train_display.first_plan(session)
            and train.line_html(session, "a b").count("problem") == 1
        )
        with pytest.raises(SessionError):
            train_display.plan_of_run(session, "../x")
        plan_files.save(session.workdir, session.folders, "kept", text)
        assert (
            train_display.plan_of_run(session, "kept") == text
            and train_display.plan_of_run(session, "none") == ""
        )
    finally:
        session.close()


def test_steps_from_one_group_are_a_field_of_their_own():
    by_task = plan_form.set_group_metric("settings: {rate: 1e-3}", "task")
    assert read(by_task) == {"settings": {"rate": 1e-3, "group_by": {"metric": "task"}}}
    assert read(plan_form.set_group_metric(by_task, "kmeans"))["settings"]["group_by"] == {
        "metric": "kmeans",
        "count": 8,
    }
    assert read(plan_form.set_group_metric(by_task, "")) == {"settings": {"rate": 1e-3}}
    binned = "settings: {group_by: {metric: length, bins: 4}}"
    assert plan_form.set_group_metric(binned, "length") == binned  # its own keys stay
    assert [plan_form.group_metric(given) for given in ({"metric": "length"}, "task", None, {"metric": "anchors"})] == [
        "length", "task", "", "",
    ]  # fmt: skip
