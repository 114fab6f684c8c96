"""Talking: the text of a plain greedy loop, in whole characters, up to a stop string."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from evaluation.errors import DataError
from evaluation.generation import _text, _until, generate

Build = Callable[..., Any]


def greedy(module: Any, tokenizer: Any, prompt: str, count: int) -> str:
    ids = tokenizer(prompt)["input_ids"]
    made: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            token = int(module(torch.tensor([ids + made]), use_cache=False).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        made.append(token)
    return str(tokenizer.decode(made, skip_special_tokens=True))


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "gemma3_text", "qwen3"])
@pytest.mark.parametrize("prompt", ["the sum of", "what is the sky"])
def test_equals_a_plain_loop(family: str, prompt: str, build: Build, tokenizer: Any) -> None:
    module = build(family, seed=5)
    pieces = list(generate(module, tokenizer, prompt, max_new_tokens=23))
    # the tail of random tokens may be half a character, which is held back until the end
    assert "".join(pieces) == greedy(module, tokenizer, prompt, 23)
    assert all(pieces)


def streamed(tokenizer: Any, text: str, prompt: str = "the") -> list[str]:
    return list(
        _text(tokenizer, tokenizer(prompt)["input_ids"], iter(tokenizer(text)["input_ids"]), None)
    )


@pytest.mark.parametrize("text", [" the sum", "naïve — 東京 🙂👩‍🚀 end", "\n\n  12", "a\u200bb"])
def test_characters_arrive_whole(text: str, tokenizer: Any) -> None:
    pieces = streamed(tokenizer, text)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    if "🙂" in text:  # four bytes, four tokens, one piece
        assert "🙂" in pieces


def test_a_character_cut_off_is_shown_at_the_end(tokenizer: Any) -> None:
    ids = tokenizer("ab🙂")["input_ids"][:-1]
    pieces = list(_text(tokenizer, [5], iter(ids), None))
    assert "".join(pieces) == tokenizer.decode(ids)
    assert pieces[-1].startswith("\ufffd")


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["one", "\ntwo"], ["\n"], ["one"]),
        (["a#", "#", "#b"], ["###"], ["a"]),
        (["a#", "#", "b"], ["###"], ["a", "##b"]),
        (["abc"], ["c", "b"], ["a"]),
        (["\nabc"], ["\n"], []),
        (["ab", "ab", "aX"], ["abaX"], ["ab"]),
        (["x", "y"], [], ["x", "y"]),
        (["tail", " #"], ["##"], ["tail", " ", "#"]),
    ],
)
def test_stop_strings(pieces: list[str], stop: list[str], expected: list[str]) -> None:
    assert list(_until(iter(pieces), tuple(stop))) == expected


def test_ends_at_any_end_token(build: Build, tokenizer: Any) -> None:
    module = build("llama-tied", seed=5)
    free = list(generate(module, tokenizer, "the sum of", max_new_tokens=9))
    with torch.no_grad():
        first = int(
            module(torch.tensor([tokenizer("the sum of")["input_ids"]])).logits[0, -1].argmax()
        )
    module.generation_config.eos_token_id = [2, first]
    assert free
    assert list(generate(module, tokenizer, "the sum of", max_new_tokens=9)) == []


def test_stops_when_asked_and_leaks_no_mode(build: Build, tokenizer: Any) -> None:
    module = build("llama-tied", seed=5)
    stream: Iterator[str] = generate(module, tokenizer, "the", max_new_tokens=50)
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()
    assert list(generate(module, tokenizer, "the", should_stop=lambda: True)) == []


def test_the_context_ends_the_text(build: Build, tokenizer: Any) -> None:
    module = build("gpt2", seed=5)
    ids = len(tokenizer("the sky " * 50)["input_ids"])
    assert ids < 127
    assert "".join(generate(module, tokenizer, "the sky " * 50, max_new_tokens=500))
    with pytest.raises(
        DataError, match=r"the prompt is \d+ tokens long, the model reads at most 127\. Shorten"
    ):
        generate(module, tokenizer, "the sky " * 90)
    with pytest.raises(DataError, match="holds no token"):
        generate(module, tokenizer, "")


def test_a_prompt_that_a_template_wrote_gets_no_second_begin(
    build: Build, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers.processors import TemplateProcessing

    module, begin = build("llama-tied", seed=5), (tokenizer.pad_token, tokenizer.pad_token_id)
    plain = list(generate(module, tokenizer, "the sky", max_new_tokens=9))
    monkeypatch.setattr(
        tokenizer.backend_tokenizer,
        "post_processor",
        TemplateProcessing(f"{begin[0]} $A", None, [begin]),
    )
    begun = list(generate(module, tokenizer, "the sky", max_new_tokens=9))
    assert list(generate(module, tokenizer, "the sky", written=True, max_new_tokens=9)) == plain
    with_begin = begin[0] + "the sky"
    assert list(generate(module, tokenizer, with_begin, written=True, max_new_tokens=9)) == begun
