"""Plans: what a file says, written and read again, and everything that is wrong with one, said at once."""

from fractions import Fraction

import pytest

from corpus import Example, write_jsonl
from corpus.source import Source
from plumbing.strict_yaml import MAX_CHARACTERS
from training.adapter import Lora
from training.errors import TrainingError
from training.plan.faults import PlanError
from training.plan.plan_file import parse_plan, plan_yaml, read_plan
from training.plan.settings import stage_arguments

HEAD = """base: b
sources: {math: m.jsonl, code: c.jsonl, general: g.jsonl}
"""


def plan(rest):
    return parse_plan(HEAD + rest)


def refused(text, **more):
    with pytest.raises(PlanError) as caught:
        parse_plan(text, **more)
    return caught.value.faults


def faults(rest):
    """What is said of the part after HEAD; the base, which is not there, left out."""
    return [
        message
        for message in refused(HEAD + rest)
        if "is not a folder on this machine" not in message
    ]


def test_a_plan_by_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "plans" / "near.jsonl", [Example("a", " b")])
    (tmp_path / "plans" / "plan.yml").write_text(
        """
base: models/base
sources:
  math: near.jsonl
  code: {path: data/code, share: 1/2, seed: 3, label_field: kind, plain: true}
validation:
  math: far.jsonl
settings: {epochs: 3, rate: 2e-5, lora: 16, frozen: ["*embed*"]}
schedule:
  - kind: experts
    each: {code: {steps: 100, lora: null}}
  - {kind: proportions, single: true, k: [0.25, 1/16]}
subset_seed: 7
""",
        "utf-8",
    )
    found = read_plan("plans/plan.yml")
    assert found.base == "models/base"
    assert found.sources == {
        "math": Source("math", "plans/near.jsonl"),  # beside the plan
        "code": Source(
            "code", "data/code", share=Fraction(1, 2), seed=3, label_field="kind", plain=True
        ),
    }
    assert found.validation == {"math": Source("math", "far.jsonl", split="validation")}
    assert found.settings == {
        "epochs": 3,
        "rate": 2e-5,
        "lora": {"rank": 16},
        "frozen": ("*embed*",),
    }
    assert found.subset_seed == 7
    steps = {step.name: step for step in found.steps}
    assert list(steps)[:2] == ["math", "code"] and len(steps) == 2 + 2 * 2
    assert found.settings_of(steps["code"]) == {
        "rate": 2e-5,
        "lora": None,
        "frozen": ("*embed*",),
        "steps": 100,
    }
    assert stage_arguments(found.settings_of(steps["math"]))["lora"] == Lora(16)


def test_one_source_for_two_schedules_with_other_settings_is_told():
    found = plan("schedule: [{kind: experts, settings: {steps: 3}}, {kind: experts}]")
    with pytest.raises(TrainingError, match='two steps are called "math"'):
        found.steps


@pytest.mark.parametrize(
    "schedule",
    [
        "{kind: experts}",
        "{kind: experts, sources: [code], each: {code: {epochs: 0.5}}}",
        "{kind: mixing}",
        "{kind: mixing, shares: {math: 1/4, code: 2}}",
        "{kind: mixing, parts: {math: 0.7, code: 0.3}, examples: 5000, settings: {steps: 20}}",
        "{kind: sequential, order: [code, math, general]}",
        "{kind: mixed_sequential, special: [code, math], general: [general]}",
        "{kind: dmt, special: [code, math], general: general}",
        "{kind: dmt, special: [code, math], general: [general], k: [0, 1/256], each: {special: {rate: 1e-4}}}",
        "{kind: proportions}",
        "{kind: proportions, single: true, each: {math: {epochs: 1}}}",
        "{kind: proportions, hold: {general: 1/64}, k: [1/4, 0]}",
        "[{kind: experts}, {kind: mixing}]",
    ],
)
def test_what_is_written_reads_back_as_the_same(schedule):
    rest = """settings:
  epochs: 2
  lora: {rank: 8, alpha: 32, targets: [q_proj]}
  group_by: {metric: anchors, anchors: {path: dev.jsonl, split: dev}, k: 3}
  group_weights: {sums: 2, chat: 1/2}
  replay: [general]
subset_seed: 3
"""
    found = plan(f"{rest}schedule: {schedule}")
    again = parse_plan(plan_yaml(found))
    assert again == found
    assert again.steps == found.steps and plan_yaml(again) == plan_yaml(found)


def test_the_papers_questions_are_one_plan_each():
    single = plan("schedule: {kind: proportions, single: true}")
    mixed = plan("schedule: {kind: proportions}")
    held = plan("schedule: {kind: proportions, hold: {general: 1/64}}")
    assert (len(single.steps), len(mixed.steps), len(held.steps)) == (15, 5, 5)
    assert held.steps[-1].shares == {
        "code": Fraction(1, 256), "general": Fraction(1, 64), "math": Fraction(1, 256),
    }  # fmt: skip


def test_everything_wrong_is_said_at_once_by_line(tmp_path):
    (tmp_path / "bad.jsonl").write_text(
        '{"prompt": "a", "completion": " b"}\n{"prompt": "a"}\n', "utf-8"
    )
    (tmp_path / "empty.jsonl").write_text("\n", "utf-8")
    text = """base: nowhere
sources:
  math: bad.jsonl
  code: {path: empty.jsonl, splt: train}
  "a/b": x.jsonl
settings:
  epoch: 3
  rate: fast
schedule: {kind: dtm}
"""
    found = refused(text, home=tmp_path, file="plan.yml")
    assert found == (
        """plan.yml, line 1, base: 'nowhere' is not a folder on this machine. Give the folder of a checkpoint. Download a model of the hub first.""",
        f"""plan.yml, line 3, sources.math: {tmp_path}/bad.jsonl, line 2, field "completion": missing (the line has prompt). Add "completion" with a text.""",
        """plan.yml, line 4, sources.code.splt: unknown key; did you mean 'split'?""",
        next(message for message in found if "empty.jsonl" in message),
        """plan.yml, line 5, sources.a/b: a name is made of letters, digits, - and _: it becomes part of a folder's name.""",
        """plan.yml, line 7, settings.epoch: unknown setting; did you mean 'epochs'?""",
        """plan.yml, line 8, settings.rate: is 'fast', expected a number.""",
        """plan.yml, line 9, schedule.kind: kind is 'dtm'; did you mean 'dmt'?""",
    )
    with pytest.raises(
        PlanError, match=r"^8 things to correct; nothing was trained\.\nplan\.yml, line 1"
    ):
        parse_plan(text, home=tmp_path, file="plan.yml")


REACHED = """
base: {base}
sources: {{math: {source}, code: {{path: {root}/data.jsonl}}}}
validation: {{math: {validation}}}
settings: {{steps: 1, group_by: {{metric: anchors, anchors: {anchors}, model: {model}}}}}
schedule: {{kind: experts, settings: {{group_by: {{metric: anchors, anchors: {inner}}}}},
  each: {{math: {{group_by: {{metric: kmeans, count: 2, model: {each}}}}}}}}}
"""
KEYS = ("base", "source", "validation", "anchors", "model", "inner", "each")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("where", ["absolute", "dots", "link", "hub", "home", "reader"])
def test_no_key_of_a_plan_leads_out_of_a_limited_reach(tmp_path, monkeypatch, key, where):
    from corpus.reach import Reach

    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    write_jsonl(root / "data.jsonl", [Example("a", " b")])
    write_jsonl(out / "train.jsonl", [Example("secret", " b")])
    (root / "link").symlink_to(out)
    monkeypatch.chdir(out)
    path = {
        "absolute": out, "dots": f"{root}/../out", "link": root / "link", "hub": "org/name",
        "home": "~/x", "reader": "text",
    }[where]  # fmt: skip
    fine = dict.fromkeys(KEYS, f"{root}/data.jsonl") | {"root": root}
    reach = Reach((root,), hub=False)
    assert parse_plan(REACHED.format(**fine), home=root, reach=reach).reach is reach
    found = refused(REACHED.format(**fine | {key: path}), home=root, reach=reach)
    (message,) = [each for each in found if "is outside the folders this server may" in each]
    at = {"source": "sources.math", "inner": "anchors", "each": "model"}.get(key, key)
    assert f"{at}: " in message or f"{at}.math: " in message


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("schedule: {}", "schedule.kind: kind is missing; known: experts, mixing"),
        ("schedule: []", "schedule: is an empty list"),
        ("schedule: dmt", "schedule: is 'dmt', expected keys and values"),
        (
            "schedule: {kind: experts, sources: [maths]}",
            """no source is called 'maths'; did you mean 'math'?""",
        ),
        ("schedule: {kind: experts, sources: [math, math]}", 'names "math" twice'),
        (
            "schedule: {kind: experts, sources: 3}",
            "sources: is 3, expected a list of sources: math, code, general",
        ),
        (
            "schedule: {kind: experts, k: 1}",
            "schedule.k: unknown key of experts; known: each, kind, settings, sources",
        ),
        (
            "schedule: {kind: experts, each: {chat: {}}}",
            "schedule.each.chat: is not part of this schedule; known: code, general, math",
        ),
        ("schedule: {kind: mixing, each: {math: {}}}", "nothing here: write settings instead"),
        (
            "schedule: {kind: mixing, shares: {math: 1}, parts: {math: 1}}",
            "are both given. Keep one",
        ),
        ("schedule: {kind: mixing, shares: {math: 1}, examples: 5}", "goes with parts"),
        (
            "schedule: {kind: mixing, parts: {math: 1}, examples: 0}",
            "is 0, expected a whole number from 1",
        ),
        ("schedule: {kind: mixing, shares: {math: 0}}", "every share is 0"),
        (
            "schedule: {kind: mixing, shares: {math: a lot}}",
            "schedule.shares.math: 'a lot' is not a share",
        ),
        ("schedule: {kind: mixing, shares: {math: true}}", "True is not a share"),
        ("schedule: {kind: mixing, shares: {math: -1}}", "a share of -1 is below 0"),
        ("schedule: {kind: mixing, shares: {math: 1/0}}", "'1/0' is not a share"),
        ("schedule: {kind: mixing, shares: [math]}", "expected sources with their shares"),
        ("schedule: {kind: sequential}", "sequential needs order"),
        ("schedule: {kind: dmt, special: [math]}", "dmt needs general"),
        (
            "schedule: {kind: dmt, special: [math], general: [math]}",
            '"math" is special and general',
        ),
        ("schedule: {kind: dmt, special: [math], general: [code], k: 2}", "a k of 2 is above 1"),
        ("schedule: {kind: dmt, special: [math], general: [code], k: []}", "is an empty list"),
        ("schedule: {kind: proportions, k: 0}", "a k of 0 leaves nothing to train on"),
        ("schedule: {kind: proportions, hold: {math: 1}, vary: [math]}", "both varied and held"),
        (
            "schedule: {kind: proportions, hold: {math: 1, code: 1, general: 1}}",
            "holds every source and varies none",
        ),
        ("schedule: {kind: proportions, single: 1}", "is 1, expected true or false"),
        ("schedule: {kind: mixing}\nsettings: [1]", "settings: is [1], expected keys and values"),
        (
            "schedule: {kind: mixing}\nsettings: {batch: 1.5}",
            "settings.batch: is 1.5, expected a whole number",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {batch: true}",
            "settings.batch: is True, expected a whole number",
        ),
        ("schedule: {kind: mixing}\nsettings: {checkpointing: 1}", "is 1, expected true or false"),
        (
            "schedule: {kind: mixing}\nsettings: {precision: fp16}",
            "is 'fp16', expected fp32 or bf16",
        ),
        ("schedule: {kind: mixing}\nsettings: {frozen: [1]}", "expected a list, each a text"),
        (
            "schedule: {kind: mixing}\nsettings: {max_length: long}",
            "expected a whole number or null",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {lora: {rnk: 4}}",
            "settings.lora.rnk: unknown key; did you mean 'rank'?",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {lora: {rank: x}}",
            "settings.lora.rank: is 'x', expected a whole number",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {lora: big}",
            "settings.lora: is 'big', expected keys and values: rank",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {group_by: size}",
            "with one of task, length, anchors, kmeans",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {group_by: kmeans}",
            "settings.group_by: needs count",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {group_by: {metric: length, bins: 3, edges: [4]}}",
            "are both given",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {group_by: {metric: kmeans, count: 3, encoder: tf_idf}}",
            "did you mean",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {group_by: {metric: kmeans, count: 3, encoder: sentence_transformers}}",
            "needs model",
        ),
        (
            "schedule: {kind: mixing}\nsettings: {group_weights: [1]}",
            "expected groups with their weights",
        ),
        (
            "schedule: {kind: mixing}\nsubset_seed: x",
            "subset_seed: is 'x', expected a whole number",
        ),
        ("schedule: {kind: mixing}\nshcedule: {}", "unknown key; did you mean 'schedule'?"),
        ("schedule: {kind: mixing}\nbase: c", "base: occurs twice"),
        ("schedule: {kind: mixing}\n? [1]\n: 2", "has a key that is not text"),
        (
            "schedule: {kind: mixing}\nvalidation: [1]",
            "validation: is [1], expected names with their paths",
        ),
        (
            "schedule: {kind: mixing}\nvalidation: {math: 3}",
            "validation.math: is 3, expected a path",
        ),
        (
            "schedule: {kind: mixing}\nvalidation: {math: {split: a}}",
            "validation.math: path is missing",
        ),
        (
            "schedule: {kind: mixing}\nvalidation: {math: {path: 3}}",
            "validation.math.path: is 3, expected a text",
        ),
        (
            "schedule: {kind: mixing}\nvalidation: {math: {path: a, seed: x}}",
            "is 'x', expected a whole number",
        ),
        ("schedule: {kind: mixing}\nvalidation: {math: {path: a, share: 2}}", "outside 0 to 1"),
        (
            "schedule: {kind: mixing}\nvalidation: {math: {path: a, plain: 1}}",
            "validation.math.plain: is 1, expected true or false",
        ),
    ],
)
def test_one_fault_one_message(rest, words):
    found = faults(rest)
    assert len(found) == 1 and words in found[0], found
    assert "line" in found[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a plan is keys and values"),
        ("[1]", "a plan is keys and values"),
        ("a: [", "not valid YAML"),
        ("a: &x [1]\nb: *x", "line 2: aliases"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("a: 2026-99-99", "not valid YAML"),
        ("#" * (MAX_CHARACTERS + 1), "at most 200,000 are read"),
    ],
)
def test_what_is_no_plan(text, words):
    (found,) = refused(text)
    assert words in found


def test_what_is_missing_is_named():
    found = refused("settings: {epochs: 1}")
    assert [message for message in found if "is missing" in message] == [
        "plan, line 1: base is missing.", "plan, line 1: sources is missing.", "plan, line 1: schedule is missing.",
    ]  # fmt: skip
    assert not any("kind" in message or "expected names" in message for message in found)
    assert any(
        "is 3, expected the folder" in message
        for message in refused("base: 3\nsources: {a: b}\nschedule: []")
    )


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(TrainingError, match=r"cannot be read \(No such file"):
        read_plan(tmp_path / "plan.yml")
    (tmp_path / "plan.yml").write_bytes(b"base: \xff")
    with pytest.raises(TrainingError, match="byte 6 is not UTF-8"):
        read_plan(tmp_path / "plan.yml")
