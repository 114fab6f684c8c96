"""YAML that people and strangers write: values, lines, and every fault by kind and place."""

import pytest
import yaml

from plumbing.strict_yaml import MAX_CHARACTERS, Fault, dump, parse


def faults(text, **options):
    return parse(text, **options).faults


def test_values_and_the_line_of_each_key():
    document = parse("a: 1\nb:\n  - x\n  - {c: 2.5}\n")
    assert document.value == {"a": 1, "b": ["x", {"c": 2.5}]}
    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,  # a key that was read before its value keeps the key's line
        ("b", 0): 3,
        ("b", 1): 4,
        ("b", 1, "c"): 4,
    }
    assert document.faults == []


def test_a_key_that_occurs_twice_is_a_fault_at_its_own_line_and_the_first_value_stays():
    document = parse("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert document.value == {"a": 1, "b": {"c": 1}}
    assert document.faults == [
        Fault("duplicate", ("b", "c"), 2, "c"),
        Fault("duplicate", ("a",), 3, "a"),
    ]


def test_aliases_are_refused_before_they_expand():
    bomb = "a: &a [x, x]\n" + "".join(f"{n}: &n{n} [*a, *a]\n" for n in range(5))
    (fault,) = faults(bomb)
    assert (fault.kind, fault.line) == ("alias", 2)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a: [", "syntax"),
        ("\x00", "syntax"),
        ("a: !!python/object/apply:os.system ['true']", "syntax"),
        ("!!python/object/apply:os.system ['true']", "syntax"),
        ("a: 2026-13-45", "value"),
        pytest.param("a: " + "[" * 1500, "value", marks=pytest.mark.slow),
        ("? [1]\n: 2", "key"),
        ("? {a: 1}\n: 2", "key"),
        ("x" * (MAX_CHARACTERS + 1), "length"),
    ],
)
def test_everything_else_that_is_wrong_has_a_kind(text, kind):
    assert [fault.kind for fault in faults(text)] == [kind]


def test_keys_are_text():
    assert parse("1: a\ntrue: b\n").value == {"1": "a", "true": "b"}


def test_an_exponent_without_a_dot_is_a_number_if_asked_for():
    assert parse("rate: 2e-5").value == {"rate": "2e-5"}  # YAML 1.1, as mergekit reads it
    assert parse("rate: 2e-5", exponents=True).value == {"rate": 2e-5}


def test_nothing_is_no_value():
    assert parse("").value is None and parse("# a comment").value is None


def test_what_is_dumped_is_parsed_and_written_out_twice():
    shared = [1, 2]
    text = dump({"é": shared, "b": shared})
    assert "&" not in text and "é" in text
    assert parse(text).value == {"é": [1, 2], "b": [1, 2]} == yaml.safe_load(text)
