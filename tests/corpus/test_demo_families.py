"""The demo's data: its arithmetic is right, its answers follow its instructions, its splits are disjoint."""

import re
from random import Random

import pytest

from corpus.demo import FAMILIES, SIZES, datasets, held_out, mixture, write
from corpus.demo.vocabulary import SIMPLE

BY_NAME = {family.name: family for family in FAMILIES}


@pytest.fixture(scope="module")
def data():
    return datasets(0)


def everything(data, name):
    return [example for examples in data[name].values() for example in examples]


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def test_sizes_and_forms(data):
    assert list(data) == ["cot", "mathqa", "p3", "sni", "dialog"]
    for name, splits in data.items():
        assert {split: len(examples) for split, examples in splits.items()} == SIZES
        for example in everything(data, name):
            assert example.prompt == example.prompt.strip()
            assert re.fullmatch(r" \S.*\S| \S", example.completion)
            assert (
                not example.choices or example.completion == f" {example.choices[example.answer]}"
            )
            assert len(set(example.choices)) == len(example.choices)


def test_no_prompt_occurs_twice_and_the_base_never_saw_a_held_out_one(data):
    for name in data:
        prompts = [example.prompt for example in everything(data, name)]
        assert len(set(prompts)) == len(prompts)
    unseen = held_out(data)
    assert len(unseen) == 5 * (SIZES["test"] + SIZES["validation"])
    assert not unseen & {example.prompt for example in mixture(0, 5000, hard=0.5, held_out=unseen)}
    assert unseen & {
        example.prompt for example in mixture(0, 5000, hard=0.5, held_out=set())
    }  # the test can fail


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data, tmp_path):
    write(tmp_path / "one", data)
    write(tmp_path / "two", datasets(0))
    files = sorted(
        path.relative_to(tmp_path / "one")
        for path in (tmp_path / "one").rglob("*")
        if path.is_file()
    )
    assert len(files) == 5 * 3 + 2
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert datasets(1)["cot"]["test"] != data["cot"]["test"]


def test_cot_by_hand():
    assert BY_NAME["cot"].draw(Random(3)) == BY_NAME["cot"].draw(Random(3))
    # "Mia has 23 … finds 14 more … loses 5": the numbers of the question, then those of the chain
    chain = " 23 + 14 = 37. 37 - 5 = 32. The answer is 32."
    assert numbers(chain) == [23, 14, 37, 37, 5, 32, 32]


def test_cot_chains_follow_the_story_and_are_right(data):
    for example in everything(data, "cot"):
        start, *changes = numbers(example.prompt)
        *steps, last = example.completion.strip().split(". ")
        count = start
        for change, step in zip(changes, steps, strict=True):
            before, sign, by, after = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)", step).groups()
            assert int(before) == count and int(by) == change
            count = count + change if sign == "+" else count - change
            assert int(after) == count >= 0
        assert last == f"The answer is {count}."
        gains = len(re.findall(r"finds|buys|gets|wins", example.prompt))
        assert gains == example.completion.count("+")


MATHQA = {
    r"How many \w+ (are in \d+ \w+|is that|are there)\?": lambda n: n[0] * n[1],
    r"shares (\d+) \w+ among": lambda n: n[0] // n[1],
    r"are packed in": lambda n: n[0] // n[1],
    r"km each hour": lambda n: n[0] * n[1],
    r"What is its area": lambda n: n[0] * n[1],
    r"What is its perimeter": lambda n: 2 * (n[0] + n[1]),
    r"What is the average": lambda n: (n[0] + n[1]) / 2,
    r"have together": lambda n: n[0] + n[1],
}


def test_mathqa_answers_are_right_and_stand_anywhere(data):
    places = [0, 0, 0, 0]
    for example in everything(data, "mathqa"):
        question, options, _ = example.prompt.split("\n")
        (rule,) = [rule for pattern, rule in MATHQA.items() if re.search(pattern, question)]
        assert int(example.completion) == rule(numbers(question))
        assert options == f"Options: {', '.join(example.choices)}"
        assert len(example.choices) == 4
        places[example.answer] += 1
    assert min(places) > 0.2 * sum(places)


def sni_output(instruction, words):
    removed = re.fullmatch(r"Remove the word (\w+)\.", instruction)
    if removed:
        return [word for word in words if word != removed[1]]
    replaced = re.fullmatch(r"Replace (\w+) with (\w+)\.", instruction)
    if replaced:
        return [replaced[2] if word == replaced[1] else word for word in words]
    rules = {
        "first letter": [word[0] for word in words],
        "Swap": [words[-1], *words[1:-1], words[0]],
        "twice": [word for word in words for _ in "ab"],
        "first": [words[0]],
        "last": [words[-1]],
        "second": [words[1 % len(words)]],
        "everse": words[::-1],
        "Sort": sorted(words),
        "alphabetical": sorted(words),
        "How many": [str(len(words))],
        "Count": [str(len(words))],
        "Copy": words,
        "again": words,
    }
    return next(output for key, output in rules.items() if key in instruction)


def test_sni_outputs_follow_the_instruction(data):
    assert sni_output("Reverse the list of words.", ["red", "cat", "sun"]) == ["sun", "cat", "red"]
    assert list(SIMPLE) == sorted(set(SIMPLE))
    for example in [
        *everything(data, "sni"),
        *(BY_NAME["sni"].draw(Random(seed), easy=True) for seed in range(300)),
    ]:
        instruction, words, _ = example.prompt.split("\n")
        output = sni_output(
            instruction.removeprefix("Instruction: "), words.removeprefix("Input: ").split()
        )
        assert example.completion.split() == output


def test_p3_labels_by_hand(data):
    good, bad = {"amazing", "good", "excellent"}, {"awful", "rude", "cold"}
    for example in everything(data, "p3"):
        text = example.prompt
        if (found := re.search(r"but in the end the \w+ was (\w+)\.", text)) or (
            (found := re.search(r"The \w+ was (\w+) and", text)) and found[1] != "not"
        ):
            word = found[1]
        else:
            continue
        assert word not in good or example.completion == " positive"
        assert word not in bad or example.completion == " negative"
    labels = [example.completion for example in everything(data, "p3") if " not " in example.prompt]
    assert {" positive", " negative"} == set(labels)


def test_p3_inference_follows_from_the_facts(data):
    for example in everything(data, "p3"):
        pairs = re.findall(r"(\w+) is (?:older|taller|faster|richer) than (\w+)", example.prompt)
        if len(pairs) != 3:
            continue
        *facts, claim = pairs
        known = {*facts, (facts[0][0], facts[1][1])} if facts[0][1] == facts[1][0] else set(facts)
        expected = "yes" if claim in known else "no" if claim[::-1] in known else "maybe"
        assert example.completion == f" {expected}"


def test_dialog_confirms_what_was_said_last(data):
    seen = {"booked": 0, "|": 0, "?": 0}
    for example in everything(data, "dialog"):
        turns = [turn for turn in example.prompt.split("\n") if turn.startswith("User:")]
        said = " ".join(turns)
        last = {
            "city": re.findall(r"[Ii]n ([A-Z]\w+)", said),
            "day": re.findall(r"[Oo]n ([A-Z]\w+day)", said),
            "people": re.findall(r"[Ff]or (\d) people", said),
        }
        if example.completion.endswith("?"):
            first_open = next(slot for slot, values in last.items() if not values)
            expected = {
                "city": "In which city?",
                "day": "For which day?",
                "people": "For how many people?",
            }[first_open]
            assert example.completion == f" {expected}"
            seen["?"] += 1
            continue
        city, day, people = (values[-1] for values in last.values())
        kind = re.search(r"\b(car|room|table|taxi|tour)\b", turns[0])[1]
        if "|" in example.completion:
            assert example.completion == f" {kind} | {city} | {day} | {people}"
            seen["|"] += 1
        else:
            assert (
                example.completion
                == f" Your {kind} in {city} on {day} for {people} people is booked."
            )
            seen["booked"] += 1
    assert min(seen.values()) > 1000
