"""Word problems: both languages of a problem belong together, and nothing of the file's marks is left."""

from corpus.real.problems import FOLDERS, LONGEST, PROBLEMS, items, right

TEXT = '''
question = "{} has 4 tubes. How many?"
answer = """
{} has 4*2= <<4*2=8>>8 tubes
#### 8
"""
question_annotated = "{{name}} has {{n}}"
'''


def package(**longer):
    """The files of the package, all with the same problem."""
    return {
        f"{folder}/{number:04}.toml": TEXT.format(
            language + longer.get(language, ""), language
        ).encode()
        for language, folder in FOLDERS.items()
        for number in range(PROBLEMS)
    }


def test_a_problem_in_each_language_is_a_group():
    made = list(items(package()))
    assert [(item.question, item.group) for item in made[:4]] == [
        ("deu has 4 tubes. How many?", "0"),
        ("eng has 4 tubes. How many?", "0"),
        ("deu has 4 tubes. How many?", "1"),
        ("eng has 4 tubes. How many?", "1"),
    ]
    assert made[0].answer == "deu has 4*2= 8 tubes\n= 8"
    assert right(made[0].answer, made[0].accepted) and not right("9", made[0].accepted)


def test_long_problems_are_left_out():
    assert len(list(items(package(deu="x" * LONGEST)))) == PROBLEMS
