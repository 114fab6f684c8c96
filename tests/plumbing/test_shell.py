"""Words that are written for a shell come back from a shell as they were."""

import subprocess
from pathlib import Path

import pytest

from plumbing.shell import shell_line, shell_path

WORDS = ["a b", "it's", '"', "$HOME", "`id`", "~", "a+b", "é漢", "", "--x", "a\\b", "*", "#", ";"]


def test_a_shell_gives_the_words_back():
    line = shell_line(["printf", "%s\\n", *WORDS])
    ended = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)
    assert ended.stdout.decode().split("\n") == [*WORDS, ""]


@pytest.mark.parametrize(
    ("path", "word"),
    [("-x", "./-x"), ("--", "./--"), ("a/-x", "a/-x"), (Path("-r.yml"), "./-r.yml")],
)
def test_a_path_is_never_taken_for_an_option(path, word):
    assert shell_path(path) == word
