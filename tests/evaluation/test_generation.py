"""Talking: the text of a plain greedy loop, in whole characters, up to a stop string; alone or in a batch."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from evaluation import generation
from evaluation.errors import DataError
from evaluation.generation import _batches, _Prompt, _text, _until, generate, generate_many

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


PROMPTS = ["the sum of", "what is the sky", "the", "the answer of the question is 12", "yes 7"]


def alone(module: Any, tokenizer: Any, prompts: list[str] = PROMPTS, **more: Any) -> list[str]:
    return ["".join(generate(module, tokenizer, prompt, **more)) for prompt in prompts]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[int, ...]]]:
    """steps(module): the shape of the tokens of each call of the module from now on."""

    def watched(module: Any) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        forward = module.forward

        @functools.wraps(forward)
        def noted(*args: Any, **kwargs: Any) -> Any:
            shapes.append(tuple(kwargs["input_ids"].shape))
            return forward(*args, **kwargs)

        monkeypatch.setattr(module, "forward", noted)
        return shapes

    return watched


@pytest.mark.parametrize(
    "family",
    ["llama", "llama-tied", "gpt2", "gemma3_text", "qwen3", "gpt_neox", "phi", "mixtral"],
)
def test_a_batch_says_what_each_prompt_says_alone(
    family: str, build: Build, tokenizer: Any
) -> None:
    """A window of attention that is shorter than the texts, in gemma3."""
    # torch multiplies the weights of experts only if a row of them is a multiple of 16 bytes.
    more = {"gemma3_text": {"sliding_window": 7}, "mixtral": {"intermediate_size": 52}}
    module = build(family, seed=5, **more.get(family, {}))
    expected = alone(module, tokenizer, max_new_tokens=23)
    assert generate_many(module, tokenizer, PROMPTS, max_new_tokens=23) == expected
    assert len(set(expected)) > 1


def test_rows_that_have_ended_leave_the_batch(build: Build, tokenizer: Any, steps: Any) -> None:
    """Tokens that end a text: the first of one row, and one that others write at later steps."""
    module = build("llama", seed=5)
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    said = [list(generation._tokens(module, ids, 9, frozenset(), None)) for ids in prompts]
    ends = {2, said[1][0], said[0][4]}
    cuts = [min([9, *(ids.index(end) for end in ends & {*ids})]) for ids in said]
    assert sorted(cuts) == [0, 2, 4, 9, 9]
    module.generation_config.eos_token_id = list(ends)
    expected = alone(module, tokenizer, max_new_tokens=9)
    assert expected[1] == "" and "" not in expected[2:]
    shapes = steps(module)
    assert generate_many(module, tokenizer, PROMPTS, max_new_tokens=9) == expected
    width = max(map(len, prompts))
    assert shapes == [(5, width), *[(4, 1)] * 2, *[(3, 1)] * 2, *[(2, 1)] * 4]


def test_a_stop_string_ends_its_row_only(build: Build, tokenizer: Any, steps: Any) -> None:
    module = build("llama", seed=5)
    free = alone(module, tokenizer, max_new_tokens=11)
    words = ["=", "yes", "d", ""]
    expected = alone(module, tokenizer, max_new_tokens=11, stop=words)
    cut = [free[0].split("=")[0], free[1].split("yes")[0], ""]
    assert expected == cut + free[3:] and free[:2] != cut[:2] and free[2] != ""
    shapes = steps(module)
    made = generate_many(module, tokenizer, PROMPTS, max_new_tokens=11, stop=words)
    assert made == expected
    assert shapes[0][0] == 5 and shapes[1][0] == 4 and shapes[-1][0] < 4


def test_a_budget_splits_the_batch_by_length(build: Build, tokenizer: Any, steps: Any) -> None:
    """Prompts of 9, 9, 4 and 2 with 3 to follow: 2 rows of 12, then 2 rows of 7; or one each."""
    asked = [_Prompt([7] * width, 3) for width in (2, 9, 4, 9)]
    assert list(_batches(asked, 24)) == [[1, 3], [2, 0]]
    assert list(_batches(asked, 23)) == [[1], [3], [2, 0]]
    assert list(_batches(asked, 1)) == [[1], [3], [2], [0]]
    assert list(_batches([_Prompt([7], 0)], 24)) == []
    module = build("llama", seed=5)
    expected = alone(module, tokenizer, max_new_tokens=5)
    shapes = steps(module)
    assert generate_many(module, tokenizer, PROMPTS, max_new_tokens=5, budget=1) == expected
    assert {rows for rows, _ in shapes} == {1}
    assert generate_many(module, tokenizer, PROMPTS, max_new_tokens=0) == [""] * 5
    assert generate_many(module, tokenizer, []) == []


def test_equally_likely_tokens_are_chosen_as_alone(build: Build, tokenizer: Any) -> None:
    """Each token has a twin with the same weights; the first of two is taken."""
    module = build("llama", seed=5)
    with torch.no_grad():
        head = module.lm_head.weight
        head[165:330] = head[:165]
    expected = alone(module, tokenizer, max_new_tokens=13)
    assert generate_many(module, tokenizer, PROMPTS, max_new_tokens=13) == expected


def test_each_row_ends_at_the_context(build: Build, tokenizer: Any) -> None:
    module = build("gpt2", seed=5)
    prompts = ["the sky " * 50, "the", "the sky " * 40]
    expected = alone(module, tokenizer, prompts, max_new_tokens=500)
    assert generate_many(module, tokenizer, prompts, max_new_tokens=500) == expected
    with pytest.raises(DataError, match="the model reads at most 127"):
        generate_many(module, tokenizer, ["the", "the sky " * 90])
    with pytest.raises(DataError, match="holds no token"):
        generate_many(module, tokenizer, ["the", ""])


def test_a_model_without_a_cache_of_tokens_is_asked_one_by_one(
    build: Build, tokenizer: Any, steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build("llama", seed=5)
    expected = alone(module, tokenizer, max_new_tokens=5)
    forward = module.forward
    monkeypatch.setattr(
        module,
        "forward",
        functools.wraps(forward)(lambda **given: forward(**given | {"use_cache": False})),
    )
    shapes = steps(module)
    assert generate_many(module, tokenizer, PROMPTS, max_new_tokens=5) == expected
    assert [rows for rows, _ in shapes] == [5] + [1] * (len(shapes) - 1)


def test_a_recurrent_layer_has_no_rows_to_take_out() -> None:
    from transformers import DynamicCache
    from transformers.cache_utils import LinearAttentionAndFullAttentionLayer

    cache = DynamicCache()
    assert not generation._selects_rows(cache)
    cache.update(torch.ones(2, 3, 5, 7), torch.ones(2, 3, 5, 7), 0)
    assert generation._selects_rows(cache)
    cache.layers.append(LinearAttentionAndFullAttentionLayer())
    assert not generation._selects_rows(cache)
