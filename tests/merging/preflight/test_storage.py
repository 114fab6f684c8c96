"""What a merge keeps from the base is told where a fine-tune has other values of it."""

import pytest
import torch

from merging import merge, open_recipe, preflight, prepare
from merging.preflight import storage
from merging.recipe import Recipe

FREQUENCIES = 1 / 10_000 ** (torch.arange(0, 8, 2) / 8)
MASK = torch.tril(torch.ones(1, 1, 5, 5))


@pytest.fixture
def problems(tmp_path, llama, tuned, write):
    """problems(base's own tensors, fine-tune's own tensors) -> what preflight says of them."""

    def of(ours, theirs, config=None):
        weights = llama(layers=1)
        write(tmp_path / "base", weights | ours, config)
        write(tmp_path / "cot", tuned(weights, 1) | theirs)
        return preflight(tmp_path / "base", [tmp_path / "cot"]).problems

    return of


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "severity"),
    [
        ("rotary_emb.inv_freq", FREQUENCIES, FREQUENCIES + 0.01, "warning"),
        ("h.0.attn.bias", MASK, 0.5 * MASK, "warning"),
        ("h.0.attn.masked_bias", torch.tensor(-1e4), torch.tensor(-1e9), "warning"),
        ("rotary_emb.inv_freq", FREQUENCIES, FREQUENCIES[:3], "warning"),
        ("rotary_emb.inv_freq", FREQUENCIES, FREQUENCIES * 1.001, "warning"),
        ("embeddings.position_ids", torch.arange(5), torch.arange(5) + 2, "info"),
        ("bn.num_batches_tracked", torch.tensor(3), torch.tensor(4), "info"),
        ("my.lookup", torch.tensor([1, 2**60]), torch.tensor([1, 2**60 + 1]), "info"),
        ("h.0.attn.bias", MASK.bool(), MASK.flip(3).bool(), "info"),
    ],
)
def test_a_kept_tensor_with_other_values_is_told(name, ours, theirs, severity, problems):
    (problem,) = problems({name: ours}, {name: theirs})
    assert (problem.severity, problem.subject) == (severity, "cot")
    assert problem.message.startswith(f"cot: {name} ")
    assert problem.message.endswith("the export has the base's.")


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("rotary_emb.inv_freq", FREQUENCIES, FREQUENCIES.clone()),
        ("rotary_emb.inv_freq", FREQUENCIES, FREQUENCIES * (1 + 2**-23)),  # another torch
        ("h.0.attn.bias", MASK.bool(), MASK),
        ("h.0.attn.bias", MASK.to(torch.uint8), MASK.bool()),
        ("x.position_ids", torch.arange(5), torch.arange(5).int()),
        ("x.relative_position_index", torch.tensor([]), torch.tensor([])),
    ],
)
def test_the_same_values_are_quiet_however_they_are_stored(name, ours, theirs, problems):
    assert problems({name: ours}, {name: theirs}) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_and_the_largest_number_of_a_dtype_are_no_difference(dtype, problems):
    theirs = {
        "rotary_emb.inv_freq": FREQUENCIES.to(dtype),
        "h.0.attn.masked_bias": torch.tensor(torch.finfo(dtype).min, dtype=dtype),
    }
    ours = {
        "rotary_emb.inv_freq": FREQUENCIES,
        "h.0.attn.masked_bias": torch.tensor(torch.finfo(torch.float32).min),
    }
    (problem,) = problems(ours, theirs)
    assert problem.severity == "info" and "is stored as" in problem.message


def test_a_recipe_tells_it_too_and_keeps_the_base(tmp_path, problems):
    problems({"rotary_emb.inv_freq": FREQUENCIES}, {"rotary_emb.inv_freq": FREQUENCIES + 1})
    recipe = Recipe.compose(tmp_path / "base", {"cot": tmp_path / "cot"}, {"cot": 1.0})
    (problem,) = prepare(recipe).problems
    assert problem.text.endswith("If they were trained, the merge lacks what they learnt.")
    merged = dict(merge(recipe, *open_recipe(recipe)))
    assert torch.equal(merged["rotary_emb.inv_freq"], FREQUENCIES)


def test_long_tensors_are_compared_at_their_beginning(problems, monkeypatch):
    monkeypatch.setattr(storage, "_MOST", 3)
    changed = FREQUENCIES.clone()
    changed[3] += 1
    assert problems({"a.inv_freq": FREQUENCIES}, {"a.inv_freq": changed}) == []


def test_a_tensor_that_the_base_ties_and_a_fine_tune_has_trained_apart_is_told(problems, llama):
    table = llama(layers=1)["model.embed_tokens.weight"]
    twice = {"lm_head.weight": table.clone()}
    own = {"lm_head.weight": table + 0.5}
    apart = problems(twice, own, {"tie_word_embeddings": True})
    said = [problem for problem in apart if "are one tensor in the base" in problem.text]
    assert [problem.severity for problem in said] == ["warning"]
    assert "of lm_head.weight" in said[0].text


def test_a_tensor_that_stays_tied_says_nothing(problems, llama, tuned):
    table = llama(layers=1)["model.embed_tokens.weight"]
    moved = tuned(llama(layers=1), 1)["model.embed_tokens.weight"]
    same = problems({"lm_head.weight": table.clone()}, {"lm_head.weight": moved.clone()})
    assert not [problem for problem in same if "are one tensor" in problem.text]
