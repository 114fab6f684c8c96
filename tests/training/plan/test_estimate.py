"""What is known of a plan before its first step: examples, tokens, groups, and every refusal, with nothing written."""

import json
import shutil
from fractions import Fraction

import pytest
import torch
from transformers import AutoTokenizer

from corpus import Chat, Example, Message, encode, write_jsonl
from training.plan.estimate import estimate, pick_indices
from training.plan.faults import PlanError
from training.plan.plan_file import parse_plan
from training.run import memory

SETTINGS = "{epochs: 1, batch: 4, precision: fp32, device: cpu%s}"


def refused(plan, **more):
    with pytest.raises(PlanError) as caught:
        estimate(plan, **more)
    return caught.value.faults


def test_picked_by_hand():
    assert pick_indices(3, 7, 0)[:6] == [0, 1, 2, 0, 1, 2] and len(pick_indices(3, 7, 0)) == 7
    assert pick_indices(5, 5, 9) == [0, 1, 2, 3, 4]
    few, more = (set(pick_indices(101, count, 4)) for count in (11, 37))
    assert few < more and set(pick_indices(101, 11, 5)) != few
    assert pick_indices(101, 37, 4) == sorted(more)


def test_tokens_are_those_of_a_plain_loop(home, plan):
    tokenizer = AutoTokenizer.from_pretrained(home / "base")
    found = estimate(
        plan(
            "{kind: mixing, shares: {math: 1/2, code: 1}}",
            SETTINGS.replace("epochs: 1", "epochs: 2") % "",
        )
    )
    (ready,) = found
    rows = [encode(example, tokenizer) for example in ready.stage.examples]
    assert ready.taken == {"code": 24, "math": 20} and ready.steps == 22
    assert ready.sources["code"].tokens == sum(len(row.ids) for row in rows[:24])
    assert ready.sources["math"].supervised == sum(row.learned for row in rows[24:])
    assert (ready.examples, ready.tokens) == (88, 2 * sum(len(row.ids) for row in rows))
    assert ready.supervised == 2 * sum(row.learned for row in rows)
    assert ready.longest[0] == max(len(row.ids) for row in rows)


def test_too_long_is_counted_and_not_seen(plan):
    (ready,) = estimate(plan("{kind: experts, sources: [code]}", SETTINGS % ", max_length: 14"))
    counts = ready.sources["code"]
    assert counts.dropped_too_long > 0 and counts.examples + counts.dropped_too_long == 24
    assert ready.longest[0] <= 14 and ready.examples < 24 + 4


def test_repeated_examples_and_replay(plan):
    (twice,) = estimate(plan("{kind: mixing, shares: {code: 5/2}}", SETTINGS % ""))
    assert len(twice.stage.examples) == 60 and len(set(twice.stage.examples)) == 24
    (rehearsing,) = estimate(
        plan(
            "{kind: experts, sources: [code]}",
            SETTINGS % ", replay: [general, math], replay_share: 0.5",
        )
    )
    assert len(rehearsing.stage.replay) == 32 + 40
    assert (
        rehearsing.steps == 24 // 2 and rehearsing.examples == 48
    )  # half of each batch is rehearsed


def test_validation_goes_by_name(plan):
    more = "validation: {math: held/math.jsonl, code: held/code.jsonl, other: held/general.jsonl}"
    steps = estimate(plan("{kind: sequential, order: [math, general]}", SETTINGS % "", more))
    assert [list(ready.stage.validation) for ready in steps] == [["math", "other"], ["other"]]


@pytest.mark.parametrize(
    ("group_by", "labels"),
    [
        ("task", {"chat": 32, "even": 20, "hex": 24, "odd": 20}),
        ("{metric: kmeans, count: 2, dimensions: 8}", None),
        ("{metric: anchors, anchors: held/mixed.jsonl}", None),
        ("{metric: length, bins: 3}", None),
        ("{metric: kmeans, count: 3, encoder: states, layer: 1}", None),
    ],
)
def test_groups_belong_to_the_examples(home, plan, group_by, labels):
    anchors = [
        Example("1 plus 1 is", " 2", label="sums"),
        Example("say hello to number 9", " hello 9", label="talk"),
    ]
    write_jsonl(home / "held" / "mixed.jsonl", anchors)
    asked = []

    def states(records, base, layer):
        asked.append((len(records), base.name, layer))
        return torch.tensor(
            [[len(record.prompt), 9.0 - len(record.completion)] for record in records]
        ).numpy()

    (ready,) = estimate(
        plan("{kind: mixing}", SETTINGS % f", group_by: {group_by}, leftover: fill"), states=states
    )
    sizes = dict(zip(ready.groups.labels, ready.groups.sizes, strict=True))
    assert sum(sizes.values()) == 96 == len(ready.stage.groups)
    assert labels is None or sizes == labels
    assert ready.steps == ready.blocks.blocks == sum(-(-size // 4) for size in sizes.values())
    if "states" in group_by:
        assert asked == [(96, "base", 1)]
    if "anchors" in group_by:
        talk = {
            ready.stage.examples[at].label
            for at, group in enumerate(ready.stage.groups)
            if group == 1
        }
        assert ready.groups.labels == ("sums", "talk") and "chat" in talk


def test_groups_of_what_fits_and_weights_by_name(plan):
    settings = (
        SETTINGS
        % ", group_by: task, max_length: 14, group_weights: {even: 1, odd: 1, hex: 2, chat: 0}"
    )
    (ready,) = estimate(plan("{kind: mixing}", settings))
    counts = ready.sources["code"]
    assert counts.dropped_too_long > 0
    hexes = ready.groups.labels.index("hex")
    assert ready.groups.sizes[hexes] == counts.examples
    for example, group in zip(ready.stage.examples, ready.stage.groups, strict=True):
        fits = example.label != "hex" or group == hexes or group == 0
        assert fits and (example.label == "hex" or ready.groups.labels[group] == example.label)
    assert {share.label: share.blocks for share in ready.blocks.groups}["chat"] == 0


def test_what_groups_do_to_the_data_is_said(plan):
    """Groups of 32, 20, 24 and 20 in updates of 32: three of the four are filled by repeating 12, 8 and 12 examples."""
    settings = SETTINGS.replace("batch: 4", "batch: 32") % ", group_by: task"
    (ready,) = estimate(plan("{kind: mixing}", settings))
    assert ready.repeats == (3, 2)
    blocks, repeats = ready.remarks
    assert "32 of 128 places repeat an example (25.0%)" in blocks
    assert repeats.startswith("3 of 4 updates hold an example more than once, up to 2 times")
    assert "leftover: mix" in repeats
    (even,) = estimate(plan("{kind: mixing}", SETTINGS % ", group_by: task"))
    assert even.repeats == (0, 1) and even.remarks == []


def test_an_example_that_an_update_holds_twice_is_told_also_without_groups(plan):
    """A source at 5/2 has each of its 24 examples two or three times; an update of 48 must hold some of them twice."""
    settings = SETTINGS.replace("batch: 4", "batch: 24, accumulation: 2") % ""
    (twice,) = estimate(plan("{kind: mixing, shares: {code: 5/2}}", settings))
    updates, most = twice.repeats
    assert updates == twice.steps and 2 <= most <= 4
    (remark,) = twice.remarks
    assert "Take more examples, or a smaller batch" in remark
    (cut,) = estimate(plan("{kind: experts, sources: [code]}", SETTINGS % ", max_length: 14"))
    counts = cut.sources["code"]
    (remark,) = cut.remarks
    assert remark.startswith(f"source code: {counts.dropped_too_long} of 24 left out (")


@pytest.mark.parametrize(
    ("schedule", "more", "words"),
    [
        (
            "{kind: mixing, shares: {code: 1/25}}",
            "",
            '1/25 of "code", which has 24 examples, is none',
        ),
        ("{kind: experts}", ", batch: 25", "step code: 24 examples do not fill one step of 25"),
        ("{kind: experts}", ", steps: 5", "steps is 5 and epochs is 1"),
        ("{kind: experts}", ", keep: best", 'keep is "best" but validation is not given'),
        (
            "{kind: experts}",
            ", max_length: 300",
            "sources.math: max_length is 300, and the base holds 256",
        ),
        (
            "{kind: experts}",
            ", max_length: 5",
            "sources.math: none of the 40 examples fits in 5 tokens",
        ),
        (
            "{kind: experts}",
            ', frozen: ["*embedding*"]',
            'frozen pattern "*embedding*" matches no parameter',
        ),
        (
            "{kind: experts}",
            ", lora: {rank: 2, targets: [qproj]}",
            'LoRA target "qproj" matches no module',
        ),
        (
            "{kind: sequential, order: [math, code], each: {math: {lora: 2}}}",
            "",
            "step math--code is a full fine-tune and starts from math, which trains a LoRA adapter",
        ),
        (
            "{kind: sequential, order: [math, code], each: {math: {lora: {rank: 2, alpha: 6}}}}",
            ", lora: 4",
            "continues the LoRA adapter of math, but with other settings: rank was 2, is 4; alpha was 6, is 8",
        ),
        (
            "[{kind: experts}, {kind: experts, settings: {epochs: 2}}]",
            "",
            'two steps are called "math"',
        ),
        (
            "{kind: mixing}",
            ", group_by: task, order: by_length",
            "sorting by length would mix the groups",
        ),
        (
            "{kind: mixing}",
            ", group_by: task, replay: math, replay_share: 0.5",
            "replay would mix into every step",
        ),
        (
            "{kind: mixing}",
            ", group_by: task, leftover: drop, batch: 21",
            "'even' (20), 'odd' (20)",
        ),
        ("{kind: mixing}", ", group_weights: {a: 1}", "group_by is not"),
        (
            "{kind: mixing}",
            ", group_by: task, group_weights: {even: 1, od: 2}",
            "no group is called od. chat, hex, odd have no weight",
        ),
        (
            "{kind: mixing}",
            ", group_by: {metric: kmeans, count: 2, encoder: states}",
            "hidden states cannot be computed here",
        ),
        (
            "{kind: mixing}",
            ", group_by: {metric: kmeans, count: 200}",
            "200 clusters of 96 examples",
        ),
        (
            "{kind: mixing}",
            ", group_by: {metric: anchors, anchors: nowhere.jsonl}",
            "group_by.anchors: source anchors: ",
        ),
        (
            "{kind: mixing}",
            ", group_by: {metric: anchors, anchors: plain.jsonl}",
            "no anchor names its task",
        ),
    ],
)
def test_one_refusal_one_message(home, plan, schedule, more, words):
    write_jsonl(home / "plain.jsonl", [Example("a", " b")])
    settings = (
        "{epochs: 1, precision: fp32, device: cpu"
        + ("" if "batch" in more else ", batch: 4")
        + more
        + "}"
    )
    found = refused(plan(schedule, settings))
    assert words in found[0], found
    assert len(found) == 1 or "max_length" in more


def test_memory_is_refused_with_the_numbers(plan, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 600_000)
    found = refused(plan("{kind: experts}", SETTINGS % ""))
    assert len(found) == 1 and "600.0 kB are free" in found[0]
    assert "settings: a step of 4 examples of up to" in found[0]


def test_a_dtype_that_is_slow_here_is_told(plan, monkeypatch):
    schedule = "{kind: mixing}"
    for slow in (True, False):
        monkeypatch.setattr(
            "torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda slow=slow: not slow
        )
        for dtype in ("auto", "bfloat16"):
            settings = f"{{epochs: 1, batch: 4, device: cpu, lora: 2, base_dtype: {dtype}}}"
            (ready,) = estimate(plan(schedule, settings))
            told = [remark for remark in ready.remarks if "no instructions for bfloat16" in remark]
            assert bool(told) == (slow and dtype == "bfloat16")


def test_parts_of_chats_cut_examples_and_endless_ones_are_told(home, tmp_path, text):
    """Four chats of two answers, whose template writes the first answer anew once the chat goes on."""
    base = tmp_path / "base"
    shutil.copytree(home / "base", base)
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if loop.last and m.role == 'assistant' %}.{% endif %}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
        "utf-8",
    )
    turns = [Message("user", "hi"), Message("assistant", "hello")]
    chats = [
        Chat((*turns, Message("user", f"say {n}"), Message("assistant", f"{n}"))) for n in range(4)
    ]
    write_jsonl(tmp_path / "chats.jsonl", chats)
    plain = (
        f"base: {base}\nsources: {{chats: {tmp_path}/chats.jsonl}}\nschedule: {{kind: mixing}}\n"
        "settings: {epochs: 1, batch: 2, device: cpu, precision: fp32%s}\n"
    )
    (ready,) = estimate(parse_plan(plain % "", home=tmp_path))
    counts = ready.sources["chats"]
    assert (counts.examples, counts.parts, counts.endless, counts.cut) == (8, 8, 8, 0)
    parts, endless = ready.remarks
    assert "source chats: 8 of 8 examples are single answers of chats" in parts
    assert "no special token ends the last answer of 8 of 8 examples" in endless
    assert [len(record.messages) for record in ready.stage.examples] == [2, 4] * 4
    longest = ready.longest[0]
    cut_to = f", max_length: {longest - 1}, too_long: cut"
    (cut,) = estimate(parse_plan(plain % cut_to, home=tmp_path))
    counts = cut.sources["chats"]
    assert counts.examples == 8 and counts.cut >= 1 and cut.longest[0] == longest - 1
    assert f"{counts.cut} of 8 examples are cut off at max_length" in cut.remarks[0]


def test_a_template_that_is_not_there(home, tmp_path, text):
    write_jsonl(
        tmp_path / "chats.jsonl", [Chat((Message("user", "hi"), Message("assistant", "hello")))] * 8
    )
    whole = text("{kind: experts}", SETTINGS % "", f"validation: {{v: {tmp_path}/chats.jsonl}}")
    found = refused(
        parse_plan(
            whole.replace("general: general.jsonl", f"general: {tmp_path}/chats.jsonl"), home=home
        )
    )
    assert len(found) == 2 and all("a chat needs a chat template" in message for message in found)
    assert "line 2, sources.general" in found[0] and "validation.v" in found[1]


def test_everything_at_once_and_nothing_written(home, tmp_path, text):
    (tmp_path / "bad.jsonl").write_text('{"prompt": 3, "completion": " b"}', "utf-8")
    (tmp_path / "out" / "code.math").mkdir(parents=True)
    whole = text("{kind: dmt, special: [math, code], general: [general], k: 1/50}", SETTINGS % "")
    whole = whole.replace(
        "general: general.jsonl", f"general: {tmp_path}/bad.jsonl, more: nowhere.jsonl"
    )
    found = refused(parse_plan(whole, home=home), out=tmp_path / "out")
    assert "code.math exists, and its training.json does not say" in found[0]
    assert "bad.jsonl, line 1, field" in found[1] and "sources.more" in found[2] and len(found) == 3
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.jsonl", "code.math", "out"]


def test_a_base_that_is_none(home, tmp_path, text):
    (tmp_path / "base").mkdir()
    whole = text("{kind: experts}", SETTINGS % ", steps: 3").replace(
        "base: base", f"base: {tmp_path}/base"
    )
    found = refused(parse_plan(whole, home=home))
    assert "has no config.json" in found[0] and "steps is 3 and epochs is 1" in found[1]
    (tmp_path / "base" / "config.json").write_text("{}", "utf-8")
    assert "base/config.json: Unrecognized model" in refused(parse_plan(whole, home=home))[0]


def test_what_stands_in_the_folder(plan, tmp_path):
    experts = plan("{kind: experts}", SETTINGS % "")
    (tmp_path / "math").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "training.json").write_text(json.dumps({"settings": {}}), "utf-8")
    found = refused(experts, out=tmp_path)
    assert len(found) == 2 and all(
        "does not say how it was trained" in message for message in found
    )
    file = tmp_path / "file"
    file.write_text("", "utf-8")
    assert "is a file. Give a folder" in refused(experts, out=file)[0]


def test_a_folder_that_was_trained_otherwise(home, plan, tmp_path):
    from training.plan.carry_out import run_plan

    run_plan(plan("{kind: experts, sources: [code]}", SETTINGS % ", seed: 1"), tmp_path)
    other = plan("{kind: experts, sources: [code]}", SETTINGS % ", seed: 2, rate: 1e-5")
    assert (
        "code exists, and was trained with other settings or data: rate was 0.0006, is 1e-05; seed was 1, is 2"
        in refused(other, out=tmp_path)[0]
    )
    same = plan(
        "{kind: experts, sources: [code]}",
        SETTINGS.replace("batch: 4", "batch: 2, accumulation: 2") % ", seed: 1",
    )
    assert [ready.standing for ready in estimate(same, tmp_path)] == ["done"]
    document = json.loads((tmp_path / "code" / "training.json").read_text("utf-8"))
    own = document["base"]["identity"]
    document["base"] = {"name": "elsewhere", "identity": "x"}
    (tmp_path / "code" / "training.json").write_text(json.dumps(document), "utf-8")
    assert "was trained from other weights (elsewhere)" in refused(same, out=tmp_path)[0]
    document["base"]["identity"] = own
    (tmp_path / "code" / "training.json").write_text(json.dumps(document), "utf-8")
    less = parse_plan(
        f"base: base\nsources: {{code: {{path: code.jsonl, share: 1/2}}}}\nschedule: {{kind: experts}}\nsettings: {SETTINGS % ', seed: 1'}",
        home=home,
    )
    assert less.sources["code"].share == Fraction(1, 2)
    assert "its examples are different" in refused(less, out=tmp_path)[0]


def test_the_schedule_of_every_step_is_checked_before_the_first(plan):
    """Two steps that differ in their schedules only: the second one's is refused too."""
    schedule = (
        "{kind: experts, each: {code: {schedule: cosine_with_min_lr},"
        " math: {schedule: polynomial, schedule_options: {power: 2}}}}"
    )
    found = refused(plan(schedule, "{epochs: 1, batch: 4, device: cpu, precision: fp32}"))
    assert len(found) == 1 and "cosine_with_min_lr" in found[0]
