"""Chats through real templates: every turn of the assistant is supervised, and nothing else."""

import copy
from dataclasses import replace

import pytest

from corpus import (
    Chat,
    CorpusError,
    Example,
    Message,
    check_template,
    encode,
    encode_all,
    split_chats,
)
from corpus.chat_tokens import prompt_text

TWO = Chat(
    (
        Message("system", "Be short."),
        Message("user", "what is two and two"),
        Message("assistant", "four"),
        Message("user", "sure?"),
        Message("assistant", " it is\n"),
    )
)
ONE = Chat(TWO.messages[1:3])
THOUGHT = Chat(
    (
        Message("user", "two and two"),
        Message("assistant", "<think>a sum</think>four"),
        Message("user", "sure?"),
        Message("assistant", "it is"),
    )
)


def spans(encoded, tokenizer):
    """The texts of the supervised stretches, in order."""
    found, previous = [], False
    for token, supervised in zip(encoded.ids, encoded.supervised, strict=True):
        if supervised and not previous:
            found.append([])
        if supervised:
            found[-1].append(token)
        previous = supervised
    return [tokenizer.decode(span) for span in found]


def test_every_turn_of_the_assistant_is_supervised_up_to_its_end(speaker):
    tokenizer = speaker("chatml")
    encoded = encode(TWO, tokenizer)
    assert spans(encoded, tokenizer) == ["four<|im_end|>", " it is\n<|im_end|>"]
    assert tokenizer.decode(encoded.ids) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nwhat is two and two<|im_end|>\n"
        "<|im_start|>assistant\nfour<|im_end|>\n<|im_start|>user\nsure?<|im_end|>\n"
        "<|im_start|>assistant\n it is\n<|im_end|>\n"
    )


def test_worked_example_token_by_token(speaker):
    tokenizer = speaker("chatml")
    encoded = encode(Chat((Message("user", "what"), Message("assistant", "four"))), tokenizer)
    shown = [tokenizer.decode([token]) for token in encoded.ids]
    asked = ["<|im_start|>", "user", "\n", "what", "<|im_end|>", "\n"]
    assert shown == [*asked, "<|im_start|>", "assistant", "\n", "four", "<|im_end|>", "\n"]
    assert encoded.supervised.tolist() == [False] * 9 + [True, True, False]


@pytest.mark.parametrize("chat", [ONE, TWO], ids=["one turn", "two turns"])
def test_prefixes_and_marks_agree_where_both_can_be_used(speaker, chat):
    tokenizer = speaker("marked")
    marks = tokenizer.apply_chat_template(
        [message.turn for message in chat.messages],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    encoded = encode(chat, tokenizer)
    assert encoded.ids.tolist() == marks["input_ids"]
    assert encoded.supervised.tolist() == [bool(mark) for mark in marks["assistant_masks"]]
    assert encoded == encode(chat, speaker("chatml"))


def test_a_template_without_generation_prompt_supervises_what_follows_the_prompt(speaker):
    tokenizer = speaker("inst")
    chat = Chat(TWO.messages[1:])
    assert spans(encode(chat, tokenizer), tokenizer) == [" four</s>", "  it is\n</s>"]


def test_marks_come_first(speaker):
    tokenizer = speaker("marked")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|im_end|>{% endgeneration %}", "<|im_end|>!{% endgeneration %}"
    )
    found = spans(encode(TWO, tokenizer), tokenizer)
    assert found == ["four<|im_end|>!", " it is\n<|im_end|>!"]


def test_marks_of_a_template_that_loses_earlier_thoughts_are_those_of_each_answer(speaker):
    tokenizer = speaker("forgetful-marked")
    kept, _ = encode_all([THOUGHT], tokenizer)
    assert [spans(item, tokenizer) for item in kept] == [
        ["<think>a sum</think>four<|im_end|>"], ["it is<|im_end|>"],
    ]  # fmt: skip


def test_where_an_answer_changes_when_the_chat_goes_on_each_is_an_example_of_its_own(speaker):
    """Worked example: the first answer is learned with its thought, which the second prompt lacks."""
    tokenizer = speaker("forgetful")
    kept, counted = encode_all([ONE, replace(THOUGHT, label="sums", line=7)], tokenizer)
    assert [item.index for item in kept] == [0, 1, 1] and (counted.too_long, counted.total) == (
        0,
        3,
    )
    assert [item.part for item in kept] == [False, True, True]
    first, second = (item for item in kept if item.part)
    assert spans(first, tokenizer) == ["<think>a sum</think>four<|im_end|>"]
    assert spans(second, tokenizer) == ["it is<|im_end|>"]
    assert tokenizer.decode(second.ids) == (
        "<|im_start|>user\ntwo and two<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>\n"
        "<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\nit is<|im_end|>\n"
    )
    with pytest.raises(CorpusError, match="becomes 2 examples, one for each answer"):
        encode(THOUGHT, tokenizer)
    # Each part is measured against the limit by itself.
    short, counted = encode_all([THOUGHT], tokenizer, len(first.ids) - 1)
    assert short == [second] and (counted.too_long, counted.total) == (1, 2)


def test_answers_of_a_split_chat_are_records_with_the_same_tokens(speaker):
    tokenizer, known = speaker("forgetful"), {}
    silent = Chat(
        (
            THOUGHT.messages[0],
            THOUGHT.messages[1]._replace(learn=False),
            *THOUGHT.messages[2:],
            *THOUGHT.messages,
        )
    )
    records = [ONE, replace(THOUGHT, label="sums", line=7), Example("a", " b"), silent]
    split = split_chats(records, tokenizer, known)
    assert len(split) == 7 and split[0] is ONE and split[3] is records[2]
    first, second = split[1:3]
    assert (first.label, first.line, first.part) == ("sums", 7, True)
    assert first.messages == THOUGHT.messages[:2]
    assert [message.learn for message in second.messages] == [True, False, True, True]
    assert [len(part.messages) for part in split[4:]] == [4, 6, 8]  # the first answer has weight 0
    whole, _ = encode_all(records, tokenizer)
    again, _ = encode_all(split, tokenizer)
    assert whole == again
    assert [item.part for item in whole] == [item.part for item in again]
    assert split_chats(split, tokenizer, {}) == split
    # What was found out while splitting is not encoded again.
    tokenizer.apply_chat_template = None
    assert encode_all(split, tokenizer, known=known)[0] == again


def test_a_prompt_that_goes_on_in_another_way_than_the_answer_ends_where_they_part(speaker):
    """As templates do that open a thought in the prompt, which an answer without thoughts lacks."""
    tokenizer = speaker("chatml")
    plain = encode(TWO, tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}"
    )
    assert "<think>" in tokenizer.chat_template
    assert encode(TWO, tokenizer) == plain


def test_a_template_that_ends_no_answer_is_noticed(speaker):
    tokenizer = speaker("chatml")
    assert encode(TWO, tokenizer).stops
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "")
    assert not encode(TWO, tokenizer).stops
    # The end belongs to the next message: earlier answers have it, the last one does not.
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert not encode(TWO, tokenizer).stops
    assert encode(Example("a", " b"), tokenizer).stops
    tokenizer.eos_token = None
    assert not encode(Example("a", " b"), tokenizer).stops


def test_a_prompt_whose_end_joins_the_answer_is_seen_by_its_tokens(speaker):
    """As texts the prompt is a beginning of the whole: only its tokens show that the model would never see it so."""
    tokenizer = speaker("joining")
    chat = Chat((Message("user", "two"), Message("assistant", "is")))
    texts = [
        tokenizer.apply_chat_template(
            [m._asdict() for m in part], tokenize=False, add_generation_prompt=prompt
        )
        for part, prompt in ((chat.messages[:1], True), (chat.messages, False))
    ]
    assert texts[1].startswith(texts[0])
    with pytest.raises(CorpusError, match=r"messages\[1\].*cannot be told"):
        encode(chat, tokenizer)


def test_a_chat_that_begins_with_the_assistant_needs_marks(speaker):
    chat = Chat(
        (Message("assistant", "four"), Message("user", "sure?"), Message("assistant", "it is"))
    )
    with pytest.raises(CorpusError, match=r"messages\[0\].*begins with the assistant"):
        encode(chat, speaker("chatml"))
    tokenizer = speaker("marked")
    assert spans(encode(chat, tokenizer), tokenizer) == ["four<|im_end|>", "it is<|im_end|>"]


def test_nothing_after_the_last_answer_is_supervised(speaker):
    tokenizer = speaker("chatml")
    chat = Chat((*ONE.messages, Message("user", "thanks")))
    assert spans(encode(chat, tokenizer), tokenizer) == ["four<|im_end|>"]


def test_white_space_of_an_answer_that_no_token_ends_is_supervised(speaker):
    tokenizer = speaker(None)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert spans(
        encode(Chat((Message("user", "two"), Message("assistant", "four"))), tokenizer), tokenizer
    ) == ["four\n"]


def test_the_length_of_a_chat_is_that_of_its_template(speaker):
    tokenizer = speaker("chatml")
    length = len(encode(ONE, tokenizer).ids)
    assert encode(ONE, tokenizer, length) is not None
    assert encode(ONE, tokenizer, length - 1) is None


def test_too_long_chats_and_examples_are_counted_and_the_kept_are_numbered(speaker):
    tokenizer = speaker("chatml")
    long = Chat((Message("user", "two " * 99), Message("assistant", "four")))
    kept, dropped = encode_all([long, Example("two and", " two"), ONE, long, ONE], tokenizer, 40)
    assert [item.index for item in kept] == [1, 2, 4]
    assert (dropped.too_long, dropped.total) == (2, 5)
    assert kept[1] == kept[2] == encode(ONE, tokenizer)


@pytest.mark.parametrize(
    ("template", "chat", "words"),
    [
        (None, ONE, ["needs a chat template", "chat_template.jinja", '"prompt" and "completion"']),
        (
            "no-system",
            TWO,
            [
                "refuses the roles system, user, assistant, user, assistant",
                "System role not supported",
            ],
        ),
        (
            "crashing",
            ONE,
            ["refuses the roles user, assistant", "can only concatenate str", "another template"],
        ),
        ("mute", ONE, ["leaves out the content of messages[1]", "Correct chat_template.jinja"]),
    ],
)
def test_templates_that_cannot_be_used_are_named_before_training(speaker, template, chat, words):
    tokenizer = speaker(template)
    records = [Example("two and", " two"), Example("a", " b"), chat]
    for check in (check_template, lambda made, found: encode_all(found, made)):
        with pytest.raises(CorpusError) as caught:
            check(tokenizer, records)
        assert str(caught.value).startswith("record 3: ")
        for word in words:
            assert word in str(caught.value)


def test_a_marked_template_that_marks_nothing_is_read_by_prefixes(speaker):
    tokenizer = speaker("chatml")
    plain = encode(TWO, tokenizer)
    tokenizer.chat_template += "{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    assert encode(TWO, tokenizer) == plain


def test_examples_need_no_template(speaker):
    check_template(speaker(None), [Example("a", " b")])
    assert encode(Example("a", " b"), speaker(None)) is not None


def test_one_chat_of_each_sequence_of_roles_is_checked(speaker):
    """The second chat of the same roles is not looked at; another sequence is."""
    tokenizer = speaker("no-system")
    calls = []
    apply = tokenizer.apply_chat_template
    tokenizer.apply_chat_template = lambda chats, **options: (
        calls.append(chats) or apply(chats, **options)
    )
    check_template(tokenizer, [ONE, ONE, ONE])
    # The whole chat and its prompt, and nothing for the other two chats.
    assert [len(turns) for turns in calls] == [2, 1]
    with pytest.raises(CorpusError, match="^record 3: "):
        check_template(tokenizer, [ONE, ONE, TWO])


def test_named_templates_use_the_default_one(speaker):
    tokenizer = speaker("chatml")
    plain = encode(ONE, tokenizer)
    named = copy.copy(tokenizer)
    named.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ 1 / 0 }}"}
    assert encode(ONE, named) == plain
    named.chat_template = {"tool_use": "x"}
    with pytest.raises(CorpusError, match="has none"):
        encode(ONE, named)


def test_many_roles_are_abridged(speaker):
    chat = Chat((Message("system", "a"), *TWO.messages[1:] * 3))
    with pytest.raises(
        CorpusError, match=r"system, user, assistant, user, assistant, … \(13 messages\)"
    ):
        encode(chat, speaker("no-system"))


SILENT = Chat((*TWO.messages[:2], Message("assistant", "four", learn=False), *TWO.messages[3:]))


@pytest.mark.parametrize("template", ["chatml", "marked", "forgetful-marked"])
def test_a_message_that_is_not_learned_is_read_and_not_supervised(speaker, template):
    tokenizer = speaker(template)
    silent, whole = encode(SILENT, tokenizer), encode(TWO, tokenizer)
    assert silent.ids.tolist() == whole.ids.tolist()
    assert spans(silent, tokenizer) == spans(whole, tokenizer)[1:]


def test_where_marks_do_not_tell_the_messages_apart_prefixes_do(speaker):
    tokenizer = speaker("chatml")
    plain = encode(SILENT, tokenizer)
    tokenizer.chat_template = "{% generation %}" + tokenizer.chat_template + "{% endgeneration %}"
    assert encode(SILENT, tokenizer) == plain
    assert encode(TWO, tokenizer).supervised.all()  # as the template says


LAST_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if FIELD %}{% if loop.last or KEEP %}{{ FIELD }}: {% endif %}{% endif %}{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("ours", ["reasoning_content", "thinking"])
def test_thoughts_have_the_name_that_the_template_knows(speaker, field, ours):
    tokenizer = speaker(None)
    chat = Chat((ONE.messages[0], ONE.messages[1]._replace(more=f'{{"{ours}": "a sum"}}')))
    template = LAST_ONLY.replace("KEEP", "true")
    tokenizer.chat_template = template.replace("FIELD", f"m.{field}")
    assert spans(encode(chat, tokenizer), tokenizer) == ["a sum: four<|im_end|>"]
    tokenizer.chat_template = template.replace("FIELD", "m.unthinking")
    with pytest.raises(CorpusError, match=f"has {ours}, and the chat template of the base never"):
        encode(chat, tokenizer)


def test_thoughts_that_a_template_keeps_only_in_the_last_answer_split_the_chat(speaker):
    tokenizer = speaker(None)
    tokenizer.chat_template = LAST_ONLY.replace("FIELD", "m.reasoning_content").replace(
        "KEEP", "false"
    )
    thinks = ONE.messages[1]._replace(more='{"reasoning_content": "a sum"}')
    kept, _ = encode_all([Chat((ONE.messages[0], thinks, *TWO.messages[3:]))], tokenizer)
    assert [spans(item, tokenizer) for item in kept] == [
        ["a sum: four<|im_end|>"], [" it is\n<|im_end|>"],
    ]  # fmt: skip


def test_a_template_that_mentions_thoughts_and_does_not_write_them_is_refused(speaker):
    tokenizer = speaker("chatml")
    tokenizer.chat_template += "{% if false %}{{ messages[0].reasoning_content }}{% endif %}"
    chat = Chat((ONE.messages[0], ONE.messages[1]._replace(more='{"thinking": "a sum"}')))
    with pytest.raises(CorpusError, match=r"leaves out the reasoning_content of messages\[1\]"):
        encode(chat, tokenizer)


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_message_that_a_template_leaves_out_is_refused(speaker, role):
    tokenizer = speaker("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m.content }}", f"{{% if m.role != '{role}' %}}{{{{ m.content }}}}{{% endif %}}"
    )
    at = [message.role for message in TWO.messages].index(role)
    with pytest.raises(CorpusError, match=rf"leaves out the text of messages\[{at}\] \({role}\)"):
        encode(TWO, tokenizer)


def test_what_a_tool_returns_may_be_written_as_json(speaker):
    tokenizer = speaker(None)
    tokenizer.chat_template = WRITES_ALL.replace("{{ m.content }}", "{{ m.content | tojson }}")
    messages = (*CALLS.messages[:2], Message("tool", 'say "four"\nor é'), *CALLS.messages[3:])
    assert '\\"four\\"\\nor é' in tokenizer.decode(
        encode(replace(CALLS, messages=messages), tokenizer).ids
    )


@pytest.mark.parametrize("text_gives", ["{{ '' }}", "{{ m.content.text + 1 }}"])
def test_a_template_that_takes_parts_gets_parts(speaker, text_gives):
    """As templates of models that see pictures: they write nothing of a plain text, or fail on it."""
    tokenizer = speaker("chatml")
    plain = encode(TWO, tokenizer)
    in_parts = "{% for part in m.content %}{{ part.text }}{% endfor %}"
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m.content }}",
        f"{{% if m.content is string %}}{text_gives}{{% else %}}{in_parts}{{% endif %}}",
    )
    assert encode(TWO, tokenizer) == plain
    assert "what is two and two" in prompt_text(TWO, tokenizer)


CALLS = Chat(
    (
        Message("user", "two and two"),
        Message("assistant", "", more='{"tool_calls": [{"name": "sum", "arguments": {"of": 2}}]}'),
        Message("tool", "four"),
        Message("assistant", "it is", more='{"reasoning_content": "sure"}'),
    ),
    tools='[{"name": "sum"}]',
)
WRITES_ALL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}{{ m.reasoning_content }}: {% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.name }}{{ call.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_tools_calls_and_thoughts_are_written_by_a_template_that_knows_them(speaker):
    tokenizer = speaker(None)
    tokenizer.chat_template = WRITES_ALL
    encoded = encode(CALLS, tokenizer)
    assert tokenizer.decode(encoded.ids).startswith('[{"name": "sum"}]<|im_start|>user')
    assert spans(encoded, tokenizer) == ['sum{"of": 2}<|im_end|>', "sure: it is<|im_end|>"]


@pytest.mark.parametrize("word", ["tools", "tool_calls", "reasoning_content"])
def test_what_a_template_would_leave_out_is_refused(speaker, word):
    tokenizer = speaker(None)
    tokenizer.chat_template = WRITES_ALL.replace(word, "other")
    with pytest.raises(
        CorpusError, match=f"has {word}, and the chat template of the base never mentions"
    ):
        encode(CALLS, tokenizer)


def test_a_developer_is_the_system_where_a_template_does_not_know_him(speaker):
    tokenizer = speaker("chatml")
    chat = Chat((Message("developer", "Be short."), *ONE.messages))
    assert encode(chat, tokenizer) == encode(
        Chat((Message("system", "Be short."), *ONE.messages)), tokenizer
    )
    tokenizer.chat_template += "{# developer #}"
    assert "<|im_start|>developer" in tokenizer.decode(encode(chat, tokenizer).ids)


def test_refused_chats_are_counted_and_named_by_their_lines(speaker):
    tokenizer = speaker("no-system")
    records = [
        replace(chat, line=line) for line, chat in enumerate([ONE, TWO, *[ONE, TWO] * 12], 4)
    ]
    for check in (check_template, lambda made, found: encode_all(found, made)):
        with pytest.raises(CorpusError) as caught:
            check(tokenizer, records)
        head, reason = str(caught.value).split("\n")
        assert head == "13 of 26 records cannot be used; the first 10:"
        lines = "; ".join(f"line {5 + 2 * n}" for n in range(10))
        assert reason.startswith(f"  {lines}: the chat template of the base refuses the roles")


def test_the_prompt_of_a_chat_is_what_the_model_sees_before_its_first_learned_answer(speaker):
    tokenizer = speaker("chatml")
    for chat, turn in ((ONE, 0), (TWO, 0), (SILENT, 1)):
        text, encoded = prompt_text(chat, tokenizer), encode(chat, tokenizer)
        first = encoded.supervised.tolist().index(True)
        assert list(tokenizer(text)["input_ids"]) == encoded.ids[:first].tolist()
        assert text.count("<|im_start|>assistant") == turn + 1
    begins = Chat((Message("assistant", "four"), Message("user", "sure?")))
    assert prompt_text(begins, tokenizer) == "<|im_start|>assistant\nfour<|im_end|>\n"
