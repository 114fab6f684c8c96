"""Tokens and masks: only the completion and the end are supervised, and the boundary is stable."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from corpus import Dropped, Encoded, Example, encode, encode_all, read_datasets

DEMO = Path(__file__).parents[2] / "assets" / "demo"


class Letters:
    """A tokenizer of one token per character, with a begin token on every prompt, as some real ones have."""

    eos_token_id = 1

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [0] * add_special_tokens + [ord(letter) for letter in text]}


def test_only_the_completion_and_the_end_are_supervised():
    encoded = encode(Example("ab", " c"), Letters())
    assert encoded == Encoded.of([0, 97, 98, 32, 99, 1], [False, False, False, True, True, True])


def test_a_tokenizer_without_an_end_token_gets_none():
    class Endless(Letters):
        eos_token_id = None

    assert encode(Example("a", "b"), Endless()) == Encoded.of([0, 97, 98], [False, False, True])


class Ending(Letters):
    """Ends every text with its end token, as some tokenizers of translation models do."""

    def __call__(self, text, add_special_tokens=True):
        ids = super().__call__(text, add_special_tokens=add_special_tokens)["input_ids"]
        return {"input_ids": [*ids, self.eos_token_id] if add_special_tokens else ids}


def test_no_end_token_stands_between_prompt_and_completion():
    assert encode(Example("2+2=", "4"), Ending()) == encode(Example("2+2=", "4"), Letters())
    own_end = chr(Letters.eos_token_id)
    kept = encode(Example(f"2{own_end}", "4"), Ending())
    assert kept.ids[:3].tolist() == [0, ord("2"), Letters.eos_token_id]


def test_long_examples_are_counted_and_never_cut():
    examples = [Example("ab", " c"), Example("abc", " d"), Example("a", " e")]
    kept, dropped = encode_all(examples, Letters(), max_length=6)
    assert [len(item.ids) for item in kept] == [6, 5]
    assert dropped == Dropped(too_long=1, total=3)
    assert encode_all(examples, Letters())[1] == Dropped(0, 3)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO / "base")


@pytest.mark.slow
def test_the_demo_tokenizer_adds_nothing_and_keeps_the_boundary(tokenizer):
    for split in ("test", "train"):
        for examples in read_datasets(DEMO / "data", split).values():
            for example in examples[:300]:
                apart = (
                    tokenizer(example.prompt)["input_ids"]
                    + tokenizer(example.completion)["input_ids"]
                )
                whole = tokenizer(example.prompt + example.completion)["input_ids"]
                assert apart == whole == encode(example, tokenizer).ids[:-1].tolist()
                assert encode(example, tokenizer).ids[-1] == tokenizer.eos_token_id
                assert len(whole) <= tokenizer.model_max_length - 64


def test_the_demo_tokenizer_reads_digits_one_by_one_and_any_text(tokenizer):
    assert tokenizer.tokenize(" 407") == ["Ġ", "4", "0", "7"]
    for text in ("Ωmega, 東京 and 🙂!", "  two  spaces\n\nand lines ", "UPPER case unseen wörds"):
        assert (
            tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False)
            == text
        )
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
