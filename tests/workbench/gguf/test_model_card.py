"""The model card of a conversion: what the file lost, and nothing of the file that is markup."""

import yaml

from workbench.gguf.model_card import model_card

FACTS = {
    "architecture": "llama", "name": "Tiny", "license": "apache-2.0", "parameters": 1234,
    "types": {"F32": 34, "Q4_1": 1200}, "notes": ["Positions are scaled: yarn, by 4."],
}  # fmt: skip


def front(card):
    return yaml.safe_load(card.split("---")[1])


def test_a_card_says_what_was_quantised():
    card = model_card(FACTS, "tiny.gguf", "ab" * 32, "bfloat16", True)
    assert front(card) == {"library_name": "transformers", "license": "apache-2.0"}
    assert "**The inputs were quantised.**" in card and "Q4_1 1,200, F32 34" in card
    assert "ab" * 32 in card and "- Positions are scaled: yarn, by 4." in card
    assert "The weights were not quantised." in model_card(FACTS, "f", "", "float32", False)


def test_texts_of_a_file_are_no_markup():
    hostile = FACTS | {
        "notes": ["a [note](x) `of` the file's\x1b[2J"],
        "name": "# [free](http://x)\n<script>",
        "license": "mit\nmalware: yes",
        "architecture": "`x`",
    }
    card = model_card(hostile, "a`b](c).gguf", "", "float32", True)
    assert "\n# free(http:x) script\n" in card and "<" not in card and "](" not in card
    assert "- a note(x) of the file's2J\n" in card
    assert front(card) == {"library_name": "transformers"}
