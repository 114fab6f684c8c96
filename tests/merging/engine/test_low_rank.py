import pytest
import torch

from merging import LoraVector, MismatchError, RecipeError
from merging.engine import low_rank
from merging.engine.low_rank import Product
from merging.engine.tasks import tasks
from merging.inputs.lora_vector import Factors
from merging.methods._contract import load
from merging.outputs.adapter_fit import Fit, LeftOut, TensorFit


def matrix(rows, columns, *, seed=0, decay=0.8):
    """A float32 matrix whose singular values fall by `decay`, as those of fine-tunes do."""
    random = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(
        torch.randn(rows, min(rows, columns), generator=random, dtype=torch.float64)
    )
    v, _ = torch.linalg.qr(
        torch.randn(columns, min(rows, columns), generator=random, dtype=torch.float64)
    )
    return ((u * decay ** torch.arange(min(rows, columns))) @ v.T).float()


def dense(product):
    return product.left.double() @ product.right.double()


def best_error(delta, rank):
    return float(torch.linalg.svdvals(delta.double())[rank:].norm())


def factors(rows, columns, rank, *, seed, scale=1.0):
    random = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(rows, rank, generator=random),
        torch.randn(rank, columns, generator=random),
        scale,
    )


# --------------------------------------------------------------------------------- sums of products


def test_two_products_side_by_side():
    one = Factors(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]]), 0.5)
    found = low_rank.concatenate([(2.0, one), (-1.0, one)])
    assert found.left.tolist() == [[1.0, -0.5], [2.0, -1.0]]
    assert found.right.tolist() == [[3.0, 4.0], [3.0, 4.0]]
    assert dense(found).tolist() == [[1.5, 2.0], [3.0, 4.0]]  # (2 − 1) · 0.5 · [1, 2]ᵀ[3, 4]
    assert found.rank == 2 and found.left.dtype == torch.float64


def test_a_joined_product_is_the_float64_sum():
    terms = [
        (0.7, factors(13, 7, 3, seed=1, scale=2.0)),
        (-0.4, factors(13, 7, 11, seed=2, scale=0.3)),
    ]
    wanted = sum(c * f.scale * (f.left.double() @ f.right.double()) for c, f in terms)
    torch.testing.assert_close(dense(low_rank.concatenate(terms)), wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("rank", [1, 2, 3, 7, 11, 100])
@pytest.mark.parametrize("shape", [(29, 17), (5, 31), (31, 5)])
def test_truncation_is_the_best_of_its_rank(shape, rank):
    exact = low_rank.concatenate(
        [(0.7, factors(*shape, 3, seed=1)), (-0.4, factors(*shape, 5, seed=2, scale=0.3))]
    )
    found = low_rank.truncate(exact, rank)
    assert found.rank == min(rank, 8, *shape)
    error = float((dense(exact) - dense(found)).norm())
    assert error == pytest.approx(best_error(dense(exact), rank), rel=1e-10, abs=1e-13)
    assert low_rank.norm(low_rank.difference(exact, found)) == pytest.approx(
        error, rel=1e-10, abs=1e-12
    )


def test_the_singular_values_are_shared_by_both_factors():
    found = low_rank.truncate(low_rank.concatenate([(1.0, factors(13, 7, 3, seed=1))]), 2)
    sigma = torch.linalg.svdvals(dense(found))[:2]
    torch.testing.assert_close(found.left.norm(dim=0).square(), sigma)
    torch.testing.assert_close(found.right.norm(dim=1).square(), sigma)


def test_what_cancels_has_norm_and_rank_zero():
    one = factors(13, 7, 3, seed=1, scale=0.1)
    for terms in ([(0.3, one), (-0.3, one)], [(0.0, one)]):
        gone = low_rank.concatenate(terms)
        assert low_rank.norm(gone) == 0.0
        assert low_rank.truncate(gone, 5).rank == 0
    assert low_rank.norm(low_rank.concatenate([(0.3, one), (-0.2, one)])) == pytest.approx(
        0.01 * float((one.left.double() @ one.right.double()).norm()), rel=1e-12
    )


# --------------------------------------------------------------------------------------- one matrix


@pytest.mark.parametrize("rank", [1, 5, 17, 40])
@pytest.mark.parametrize("shape", [(29, 17), (17, 29)])
def test_a_matrix_is_factored_as_the_float64_svd_does(shape, rank):
    delta = matrix(*shape)
    found = low_rank.factorise(delta, rank=rank)
    assert found.rank == min(rank, 17)
    assert low_rank.residual(delta, found) == pytest.approx(
        best_error(delta, rank), rel=1e-7, abs=1e-13
    )


@pytest.mark.parametrize("energy", [0.1, 0.5, 0.9, 0.99])
def test_the_least_rank_that_keeps_an_energy(energy):
    delta = matrix(29, 17)
    squares = torch.linalg.svdvals(delta.double()).square()
    shares = squares.cumsum(0) / squares.sum()
    found = low_rank.factorise(delta, energy=energy)
    assert shares[found.rank - 1] >= energy and (found.rank == 1 or shares[found.rank - 2] < energy)
    kept = 1 - (low_rank.residual(delta, found) / float(delta.double().norm())) ** 2
    assert kept == pytest.approx(float(shares[found.rank - 1]), rel=1e-9)


def test_the_energies_of_a_matrix_with_known_singular_values():
    delta = torch.zeros(3, 5)
    delta[0, 1], delta[1, 4], delta[2, 2] = 3.0, -2.0, 1.0  # squares 9, 4, 1 of 14
    for energy, rank in ((0.6, 1), (9 / 14, 1), (0.65, 2), (13 / 14, 2), (0.93, 3), (1.0, 3)):
        assert low_rank.factorise(delta, energy=energy).rank == rank
    assert low_rank.residual(delta, low_rank.factorise(delta, rank=1)) == pytest.approx(5**0.5)


def test_all_energy_of_a_product_is_its_rank():
    delta = (factors(29, 17, 3, seed=1).left @ factors(29, 17, 3, seed=1).right).float()
    assert low_rank.factorise(delta, energy=1.0).rank == 3


@pytest.mark.parametrize("wanted", [{"rank": 4}, {"energy": 0.9}])
def test_a_zero_matrix_has_rank_zero(wanted):
    assert low_rank.factorise(torch.zeros(5, 3), **wanted).rank == 0


@pytest.fixture
def limits_of_60(monkeypatch):
    """Matrices above 60 rows and columns are not decomposed as a whole."""
    for limit in ("EXACT_RANK", "EXACT_ENERGY"):
        monkeypatch.setattr(low_rank, limit, 60)


@pytest.mark.usefixtures("limits_of_60")
@pytest.mark.parametrize("rank", [1, 7, 13])
def test_above_the_limit_a_randomised_svd_comes_close_to_the_best(rank):
    delta = matrix(131, 101, decay=0.97)
    found = low_rank.factorise(delta, rank=rank)
    error = low_rank.residual(delta, found)
    assert found.rank == rank and found.left.dtype == torch.float32
    assert best_error(delta, rank) * (1 - 1e-6) <= error <= best_error(delta, rank) * 1.001


@pytest.mark.usefixtures("limits_of_60")
@pytest.mark.parametrize(("energy", "widths"), [(0.5, [32]), (0.93, [32, 64]), (0.9999, [32, 64])])
def test_above_the_limit_the_energy_is_kept_all_the_same(energy, widths, monkeypatch):
    """The width doubles until it holds the energy; from half of the matrix on, the SVD is exact."""
    seen, randomised = [], low_rank._randomised_svd
    monkeypatch.setattr(
        low_rank,
        "_randomised_svd",
        lambda delta, width: seen.append(width) or randomised(delta, width),
    )
    delta = matrix(139, 151, decay=0.97)
    found = low_rank.factorise(delta, energy=energy)
    squares = torch.linalg.svdvals(delta.double()).square()
    least = int(((squares.cumsum(0) / squares.sum()) < energy).sum()) + 1
    assert seen == widths
    assert least <= found.rank <= least + 1
    assert (
        1 - (low_rank.residual(delta, found) / float(delta.double().norm())) ** 2 >= energy - 1e-6
    )


@pytest.mark.usefixtures("limits_of_60")
def test_a_rank_near_the_whole_is_exact_above_the_limit_too():
    delta = matrix(101, 131, decay=0.97)
    assert low_rank.residual(delta, low_rank.factorise(delta, rank=90)) == pytest.approx(
        best_error(delta, 90), rel=1e-7
    )


@pytest.mark.usefixtures("limits_of_60")
def test_the_randomised_svd_repeats_and_leaves_the_generator_alone():
    delta = matrix(131, 101, decay=0.97)
    state = torch.get_rng_state()
    one = low_rank.factorise(delta, rank=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    other = low_rank.factorise(delta, rank=7)
    assert torch.equal(one.left, other.left) and torch.equal(one.right, other.right)


def test_a_residual_is_of_what_is_stored(monkeypatch):
    delta = matrix(29, 17)
    product = low_rank.factorise(delta, rank=17).to(torch.bfloat16)
    wanted = float((delta.double() - dense(product)).norm())
    assert wanted > 1e-3 * float(delta.norm())  # bfloat16 has 8 bits
    assert low_rank.residual(delta, product) == pytest.approx(wanted, rel=1e-12)


def test_a_residual_in_several_blocks_of_rows():
    delta, product = torch.ones(5, 2**19), Product(torch.zeros(5, 1), torch.zeros(1, 2**19))
    assert low_rank.residual(delta, product) == pytest.approx((5 * 2**19) ** 0.5)


def test_a_rank_below_one_is_refused():
    low_rank.check_rank(1)
    low_rank.check_rank(None)
    with pytest.raises(RecipeError, match="rank is 0, expected a whole number from 1"):
        low_rank.check_rank(0)


# ------------------------------------------------------------------------------------- coefficients

UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"


def adapters(tmp_path, base, adapter):
    return {
        "a": LoraVector(adapter(tmp_path / "a", base, [UP, DOWN], seed=1), base, "a"),
        "b": LoraVector(adapter(tmp_path / "b", base, [UP], seed=2), base, "b"),
    }


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, [0.5, -0.2]),
        ({"parameters": {"lambda": 3.0}}, [1.5, -0.6]),
        ({"parameters": {"normalize": True}}, [0.5 / 0.3, -0.2 / 0.3]),
    ],
)
def test_the_factor_of_each_vector(more, wanted, tmp_path, llama, adapter, recipe):
    base = llama()
    vectors = adapters(tmp_path, base, adapter)
    todo = {task.name: task for task in tasks(recipe({"a": 0.5, "b": -0.2}, **more), base, vectors)}
    assert low_rank.coefficients(todo[f"{UP}.weight"]) == pytest.approx(wanted, rel=1e-12)


def test_a_method_that_is_no_sum_is_refused(tmp_path, llama, adapter, recipe):
    base = llama()
    vectors = adapters(tmp_path, base, adapter)
    todo = tasks(recipe({"a": 0.5, "b": -0.2}), base, vectors)
    task = next(task for task in todo if task.vectors)
    with pytest.raises(
        RecipeError,
        match=r"merge_method ties \(.*\) is not a sum of the adapters' products, each times one "
        r"number.*Use one of linear, lines, metagpt, passthrough, task_arithmetic, or leave",
    ):
        low_rank.coefficients(task._replace(method=load("ties")))


# -------------------------------------------------------------------------------------- orientation


def model(**shapes):
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def test_a_bias_shows_how_a_matrix_stands():
    base = model(
        a__weight=(7, 11),
        a__bias=(11,),
        b__weight=(11, 7),
        b__bias=(7,),
        s__weight=(5, 5),
        s__bias=(5,),
    )
    assert low_rank.stored_transposed(base, ["a.weight", "b.weight", "s.weight"]) == dict.fromkeys(
        ["a.weight", "b.weight", "s.weight"], True
    )
    base = model(a__weight=(11, 7), a__bias=(11,), s__weight=(5, 5), s__bias=(5,), n__weight=(7, 3))
    assert not any(low_rank.stored_transposed(base, ["a.weight", "s.weight", "n.weight"]).values())


def test_a_matrix_without_a_bias_is_no_conv1d():
    base = model(a__weight=(7, 11), a__bias=(11,), n__weight=(5, 3), s__weight=(5, 5))
    assert low_rank.stored_transposed(base, list(base)[::2]) == {
        "a.weight": True,
        "n.weight": False,
    }
    assert low_rank.stored_transposed(base, ["a.weight", "s.weight"])["s.weight"] is False


def test_square_matrices_among_others_that_stand_both_ways_are_refused(tmp_path):
    base = model(
        a__weight=(7, 11),
        a__bias=(11,),
        b__weight=(11, 7),
        b__bias=(11,),
        s__weight=(5, 5),
        s__bias=(5,),
    )
    assert low_rank.stored_transposed(base, ["a.weight", "b.weight"]) == {
        "a.weight": True,
        "b.weight": False,
    }
    with pytest.raises(
        MismatchError, match=r"so the orientation of its square matrices \(s.weight\)"
    ):
        low_rank.stored_transposed(base, ["a.weight", "b.weight", "s.weight"])


# --------------------------------------------------------------------------------------- the report


def test_a_fit_in_numbers():
    fit = Fit(
        (
            TensorFit("model.layers.10.mlp.up_proj.weight", 2, 4.0, 2.0),
            TensorFit("model.layers.2.mlp.up_proj.weight", 5, 3.0, 0.0),
            TensorFit("model.layers.10.mlp.down_proj.weight", 0, 0.0, 0.0),
        ),
        (LeftOut("norms", 3, 5.0), LeftOut("biases", 1, 0.0)),
    )
    assert fit.rank == 5
    assert fit.error == pytest.approx(2 / 5)
    assert fit.missing == pytest.approx(25 / 50)
    assert [fit.share(part) for part in fit.left_out] == pytest.approx([0.5, 0.0])
    assert [(row.layer, row.tensors, row.ranks, row.norm, row.error) for row in fit.by_layer()] == [
        ("2", 1, (5, 5), 3.0, 0.0),
        ("10", 2, (0, 2), 4.0, 0.5),
    ]
    data = fit.as_data()
    assert (data["rank"], data["relative_error"], data["share_left_out"]) == (
        5,
        fit.error,
        fit.missing,
    )
    assert data["left_out"][0] == {
        "kind": "norms",
        "tensors": 3,
        "norm": 5.0,
        "why": "",
        "share": pytest.approx(0.5),
    }
    assert (
        data["layers"][1]["error"] == 0.5
        and data["tensors"][1]["name"] == "model.layers.2.mlp.up_proj.weight"
    )


def test_a_fit_of_nothing_has_no_error():
    fit = Fit((TensorFit("a", 0, 0.0, 0.0),))
    assert (fit.error, fit.missing) == (0.0, 0.0)
