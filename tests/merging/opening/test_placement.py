"""The search for numbers that place the kinds of layers."""

from merging.opening.placement import Fitness, other_placements
from merging.opening.stacked_config import level_of


def measure_of(wanted, kinds_of):
    """Counts the layers that are not as wanted; `kinds_of` is the model's rule."""
    built = []

    def measure(config):
        built.append(config)
        kinds = kinds_of(level_of(config))
        if kinds is None:
            return None
        wrong = [number for number, kind in enumerate(kinds) if kind != wanted[number]]
        strange = not set(kinds) <= {"dense", "sparse"}
        return Fitness(len(wrong), wrong, kinds, strange)

    return measure, built


def moe(level):
    """Qwen2-MoE's rule, with a width that every layer has."""
    if level["step"] < 1:
        return None
    kinds = [
        "sparse"
        if (number + 1) % level["step"] == 0 and number not in level["dense_layers"]
        else "dense"
        for number in range(level["n_layers"])
    ]
    return kinds if level["width"] == 3 else [f"{kind} {level['width']}" for kind in kinds]


def test_a_number_and_a_list_are_found_together():
    wanted = ["sparse", "dense", "sparse", "dense"]
    measure, _ = measure_of(wanted, moe)
    config = {"text_config": {"n_layers": 4, "step": 2, "width": 3, "dense_layers": []}}
    config["n"] = 1
    *_, best = other_placements(config, config["text_config"], measure)
    assert moe(level_of(best)) == wanted
    assert best == {
        "n": 1,
        "text_config": {"n_layers": 4, "step": 1, "width": 3, "dense_layers": [1, 3]},
    }


def test_a_default_is_found_too():
    measure, _ = measure_of(["sparse"] * 3, moe)
    filled = {"n_layers": 3, "step": 2, "width": 3, "dense_layers": []}
    config = {"n_layers": 3, "width": 3}

    def with_defaults(given):
        return measure(filled | given)

    *_, best = other_placements(config, filled, with_defaults)
    assert best == {"n_layers": 3, "width": 3, "step": 1}


def test_values_that_cannot_be_built_are_passed_over():
    """Steps of 0 and 1 and the list of all layers cannot be built; the rest does not help."""

    def picky(level):
        kinds = moe(level)
        return None if level["step"] == 1 or level["dense_layers"] else kinds

    measure, built = measure_of(["sparse", "sparse", "dense"], picky)
    config = {"n_layers": 3, "step": 2, "width": 3, "dense_layers": []}
    assert list(other_placements(config, {}, measure)) == []
    assert {level["step"] for level in built} == {0, 1, 2, 3}


def test_what_cannot_be_said_ends_the_search():
    wanted = ["sparse", "dense", "sparse"]
    measure, built = measure_of(wanted, lambda level: ["dense"] * level["n_layers"])
    assert list(other_placements({"n_layers": 3, "step": 2}, {}, measure)) == []
    assert len(built) < 10
    measure, _ = measure_of(wanted, lambda level: None)
    assert list(other_placements({"n_layers": 3}, {}, measure)) == []
