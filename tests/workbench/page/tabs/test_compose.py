"""How Compose names the prompts that it offers."""

from corpus.prompts import Prompt
from workbench.page.tabs.compose import label


def test_a_prompt_is_named_by_its_dataset_its_text_and_what_stands_before_it():
    assert label("sums", Prompt("2 + 2 =")) == "sums: 2 + 2 ="
    assert label("talk", Prompt("sure?", "<|user|>…", 1)) == "talk: sure? (after 1 message)"
    assert label("talk", Prompt("sure?", "<|user|>…", 3)) == "talk: sure? (after 3 messages)"
    long = label("sums", Prompt("x" * 200, "y", 2))
    assert long == f"sums: {'x' * 69}… (after 2 messages)"
