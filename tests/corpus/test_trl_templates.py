"""The chat templates that trl keeps, one by one: trained on, or refused with what to do.

trl's masks are the oracle. For most templates trl has a second one, whose {% generation %} marks
tell what its SFTTrainer learns; transformers makes the mask from it.
"""

import os
import re
from pathlib import Path

import pytest

from corpus import Chat, CorpusError, Message, encode_all
from corpus.chat_template import ChatWriter
from corpus.chat_tokens import answers

pytestmark = pytest.mark.oracle
ROOT = Path(__file__).parents[2]
FOLDERS = list((ROOT / ".venv-trl").glob("lib/python*/site-packages/trl/chat_templates"))
NAMES = sorted(
    path.stem
    for folder in FOLDERS
    for path in folder.glob("*.jinja")
    if not path.stem.endswith("_training")
)
SPECIAL = re.compile(
    r"<[|｜][^<>\s]{1,40}[|｜]>|</?think>|<(?:start|end)_of_turn>|<\|?(?:turn|channel)\|?>"
    r"|<end_of_utterance>|\[/?INST\]"
)


def user(text):
    return Message("user", text)


def answer(text, thought=""):
    return Message(
        "assistant", text, more=f'{{"reasoning_content": "{thought}"}}' if thought else ""
    )


CHATS = {
    "one": Chat((user("Hi there"), answer("Hello, you."))),
    "system": Chat((Message("system", "Be brief."), user("Hi there"), answer("Hello, you."))),
    "two": Chat(
        (user("Hi there"), answer("Hello, you."), user("And then?"), answer("Nothing more."))
    ),
    "open": Chat((user("Hi there"), answer("Hello, you."), user("And then?"))),
    "thought": Chat((user("Hi there"), answer("Hello, you.", "a greeting"))),
    "thoughts": Chat(
        (
            user("Hi there"),
            answer("Hello, you.", "a greeting"),
            user("And then?"),
            answer("Nothing more.", "no more"),
        )
    ),
}
REFUSALS = (
    "refuses the roles",  # trl's template refuses them too
    "never mentions it",
    "leaves out the reasoning_content",
)


def absent():
    """Skips a test for want of trl; in CI it fails."""
    words = "no .venv-trl. Make it: make .venv-trl/made"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(words)
    pytest.skip(words)


@pytest.fixture(params=NAMES or [None])
def template(request, speaker):
    """A tokenizer with one of trl's templates, and the text of the one that trl trains with."""
    if request.param is None:
        absent()
    text = (FOLDERS[0] / f"{request.param}.jinja").read_text("utf-8")
    trained = FOLDERS[0] / f"{request.param}_training.jinja"
    tokenizer = speaker(None)
    tokenizer.add_tokens(sorted(set(SPECIAL.findall(text))), special_tokens=True)
    tokenizer.chat_template = text
    return tokenizer, trained.read_text("utf-8") if trained.exists() else text


def mask_of_trl(tokenizer, trained, chat):
    """The ids and the mask that trl trains on; None where it has none, or refuses the chat."""
    if "endgeneration" not in trained:
        return None
    try:
        made = tokenizer.apply_chat_template(
            [message.turn for message in chat.messages],
            chat_template=trained,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    except Exception:
        return None
    return list(made["input_ids"]), [bool(mark) for mark in made["assistant_masks"]]


def stretches(mask):
    """The begin and the end of each stretch of a mask."""
    edges = [
        at for at in range(len(mask) + 1) if (at and mask[at - 1]) != (at < len(mask) and mask[at])
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_all_of_trls_templates_are_there():
    if not FOLDERS:
        absent()
    assert len(NAMES) >= 41


@pytest.mark.parametrize("name", CHATS)
def test_each_answer_is_learned_once_and_with_trls_mask(template, name):
    (tokenizer, trained), chat = template, CHATS[name]
    try:
        kept, _ = encode_all([chat], tokenizer)
    except CorpusError as error:
        assert any(words in str(error) for words in REFUSALS)
        assert re.search("Remove|Correct|Give", str(error))
        if "refuses" in str(error):
            assert name == "system" and mask_of_trl(tokenizer, trained, chat) is None
        else:
            assert name in ("thought", "thoughts")
        return
    learned = [message for message in chat.messages if message.role == "assistant"]
    texts = [
        tokenizer.decode([int(token) for token in item.ids[begin:end]])
        for item in kept
        for begin, end in stretches(item.supervised)
    ]
    assert len(texts) == len(learned)
    for text, message in zip(texts, learned, strict=True):
        assert message.content in text
        assert message.turn.get("reasoning_content", "") in text
    for item, part in zip(kept, answers(chat) if len(kept) > 1 else [chat], strict=True):
        compare_with_trl(tokenizer, trained, part, item)


def compare_with_trl(tokenizer, trained, chat, ours):
    """Every token that we supervise is in trl's mask; what trl adds is not the model's to write.

    That is the end of the prompt, and white space after the token that ends the answer.
    """
    theirs = mask_of_trl(tokenizer, trained, chat)
    if theirs is None:
        return
    ids, mask = theirs
    if not ours.stops and ids[: len(ours.ids)] == ours.ids.tolist():
        # trl's own template ends the answer, and we say that this one does not.
        ids, mask = ids[: len(ours.ids)], mask[: len(ours.ids)]
    if ids != ours.ids.tolist():
        return  # trl's template writes another text
    own = stretches(ours.supervised)
    for (begin, end), (first, last) in zip(own, stretches(mask)[-len(own) :], strict=True):
        assert first <= begin < end
        added = [int(token) for token in ours.ids[first:begin]]
        turns = sum(one_end < begin for _, one_end in own)
        assistants = [at for at, each in enumerate(chat.messages) if each.role == "assistant"]
        prompt = ChatWriter.of(chat, tokenizer).text(assistants[turns - len(own)], prompt=True)
        assert "".join(tokenizer.decode(added).split()) in "".join(prompt.split())
        after = [int(token) for token in ours.ids[min(end, last) : max(end, last)]]
        assert not tokenizer.decode(after).strip() or not ours.stops
