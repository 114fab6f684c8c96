"""Chats through real templates: every turn of the assistant is supervised, and nothing else."""

import copy

import pytest

from corpus import Chat, CorpusError, Example, Message, check_template, encode, encode_all
from corpus.chat_tokens import chat_tokens

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
    assert encoded.supervised == [False] * 9 + [True, True, False]


@pytest.mark.parametrize("chat", [ONE, TWO], ids=["one turn", "two turns"])
def test_prefixes_and_marks_agree_where_both_can_be_used(speaker, chat):
    tokenizer = speaker("marked")
    marks = tokenizer.apply_chat_template(
        [message._asdict() for message in chat.messages],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    encoded = encode(chat, tokenizer)
    assert encoded.ids == marks["input_ids"]
    assert encoded.supervised == [bool(mark) for mark in marks["assistant_masks"]]
    assert encoded == encode(chat, speaker("chatml"))


def test_a_template_without_generation_prompt_supervises_what_follows_the_prompt(speaker):
    tokenizer = speaker("inst")
    chat = Chat(TWO.messages[1:])
    assert spans(encode(chat, tokenizer), tokenizer) == [" four</s>", "  it is\n</s>"]


def test_marks_are_used_where_prefixes_are_no_prefixes(speaker):
    tokenizer = speaker("forgetful-marked")
    assert spans(encode(THOUGHT, tokenizer), tokenizer) == ["four<|im_end|>", "it is<|im_end|>"]
    first = Chat(THOUGHT.messages[:2])  # the last turn keeps its thought, and prefixes tell it
    assert spans(encode(first, tokenizer), tokenizer) == ["<think>a sum</think>four<|im_end|>"]


def test_without_marks_the_turn_that_cannot_be_told_is_named(speaker):
    with pytest.raises(CorpusError) as caught:
        encode(THOUGHT, speaker("forgetful"))
    for word in (
        "messages[1]",
        "user, assistant, user, assistant",
        "token by token",
        "{% generation %}",
        "only the last",
    ):
        assert word in str(caught.value)


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
    assert chat_tokens(ONE, tokenizer, length - 1) is None


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
        ("mute", ONE, ["messages[1]", "cannot be told"]),
    ],
)
def test_templates_that_cannot_be_used_are_named_before_training(speaker, template, chat, words):
    tokenizer = speaker(template)
    records = [Example("two and", " two"), Example("a", " b"), chat]
    for check in (check_template, lambda made, found: encode_all(found, made)):
        with pytest.raises(CorpusError) as caught:
            check(tokenizer, records)
        assert str(caught.value).startswith("record 2: ")
        for word in words:
            assert word in str(caught.value)


def test_a_marked_template_that_marks_nothing_is_refused(speaker):
    tokenizer = speaker(None)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if false %}{% generation %}{% endgeneration %}{% endif %}{% if add_generation_prompt %}?{% endif %}"
    with pytest.raises(CorpusError, match="writes no token of the assistant"):
        encode(ONE, tokenizer)


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
    assert [[len(turns) for turns in chats] for chats in calls] == [[2], [1]]
    with pytest.raises(CorpusError, match="^record 2: "):
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
