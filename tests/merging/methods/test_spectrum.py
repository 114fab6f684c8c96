"""Singular triplets and orthogonal factors, by numbers written out and against a full SVD in float64."""

import threading

import pytest
import torch

from merging.methods._spectrum import averaged, decomposed, polar, triplets

SHAPES = [(90, 300), (300, 90), (128, 128)]
DECAYS = {"flat": 0.0, "three digits": -3.0, "five digits": -5.0}
"""Spectra by the power of ten of the smallest share of the largest singular value."""


def matrix_of(shape, decay, *, rank=None, seed=0, dtype=torch.float64):
    """A matrix with singular values from 1 down to 10^decay, the last ones 0 beyond `rank`."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(side, min(shape), generator=generator, dtype=torch.float64))[0]
        for side in shape
    )
    sizes = torch.logspace(0, decay, min(shape), dtype=torch.float64)
    sizes[len(sizes) if rank is None else rank :] = 0
    return ((left * sizes) @ right.T).to(dtype)


def full(matrix):
    return torch.linalg.svd(matrix.double(), full_matrices=False)


def distance(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leading_triplets_are_those_of_a_full_decomposition(shape, decay, dtype):
    matrix = matrix_of(shape, decay, dtype=dtype)
    left, sizes, right = triplets(matrix, 30)
    wanted = full(matrix)
    assert left.dtype == sizes.dtype == right.dtype == dtype
    assert (left.shape, sizes.shape, right.shape) == ((shape[0], 30), (30,), (30, shape[1]))
    assert distance(sizes, wanted[1][:30]) < 1e-6
    if decay:  # else any 30 directions are as good
        best = (wanted[0][:, :30] * wanted[1][:30]) @ wanted[2][:30]
        assert distance((left * sizes) @ right, best) < 1e-5
    for basis in (left.T, right):
        error = basis.double() @ basis.double().T - torch.eye(30, dtype=torch.float64)
        assert error.abs().max() < (1e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS)
def test_the_orthogonal_factor_is_that_of_a_full_decomposition(shape, decay):
    matrix = matrix_of(shape, decay)
    factor, sizes = polar(matrix)
    left, wanted, right = full(matrix)
    assert distance(factor, left @ right) < 1e-4
    assert distance(sizes, wanted) < 1e-6
    assert factor.is_contiguous()


@pytest.mark.parametrize("shape", SHAPES)
def test_directions_that_a_matrix_does_not_have_are_zeros(shape):
    matrix = matrix_of(shape, -2.0, rank=20, dtype=torch.float32)
    left, _, right = full(matrix)
    factor = polar(matrix)[0]
    assert distance(factor, left[:, :20] @ right[:20]) < 1e-4
    found = triplets(matrix, 40).determined()
    assert found.sizes[19] > 1e-3 and found.sizes[20:].max() < 1e-6
    assert not found.left[:, 20:].any() and not found.right[20:].any()
    assert distance((found.left * found.sizes) @ found.right, matrix.double()) < 1e-5


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e-200, 1e200])
def test_squares_out_of_range_do_no_harm(scale):
    dtype = torch.float32 if 1e-38 < scale < 1e38 else torch.float64
    matrix = matrix_of((70, 90), -1.0)
    found = triplets((matrix * scale).to(dtype), 70)
    assert distance(found.sizes.double() / scale, torch.logspace(0, -1, 70).double()) < 1e-5
    assert distance(polar((matrix * scale).to(dtype))[0], polar(matrix)[0]) < 1e-5


@pytest.mark.parametrize("shape", [(70, 90), (90, 70), (3, 4)])
def test_no_triplets_are_none(shape):
    found = triplets(torch.ones(shape), 0).determined()
    assert [list(part.shape) for part in found] == [[shape[0], 0], [0], [0, shape[1]]]


@pytest.mark.parametrize("shape", [(70, 90), (3, 4)])
def test_zeros_have_no_directions(shape):
    zeros = torch.zeros(shape)
    found = triplets(zeros).determined()
    assert not any(part.any() for part in (*found, *polar(zeros)))


def test_the_orthogonal_factor_has_orthonormal_columns_nearest_to_the_matrix():
    matrix = torch.tensor([[2.0, 0.0], [0.0, -3.0], [0.0, 0.0]], dtype=torch.float64)
    wanted = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(polar(matrix)[0], wanted)


def test_of_equal_columns_each_gets_its_part_of_the_direction():
    half = 0.5**0.5
    found = polar(torch.tensor([[3.0, 3.0], [0.0, 0.0]], dtype=torch.float64))[0]
    torch.testing.assert_close(found, torch.tensor([[half, half], [0.0, 0.0]], dtype=torch.float64))


def test_an_accelerator_computes_its_own_eigenvectors():
    """A matrix without values on a device without memory: nothing may be read back to the CPU."""
    matrix = torch.empty(70, 90, device="meta")
    found = [*triplets(matrix, 5), *polar(matrix)]
    assert {part.device.type for part in found} == {"meta"}
    assert [part.shape for part in found] == [(70, 5), (5,), (5, 90), (70, 90), (70,)]


def test_matrices_of_layers_are_decomposed_others_if_asked():
    assert decomposed((2, 3), 0.0, False) and not decomposed((2, 3), None, False)
    assert decomposed((2, 3), None, True)
    assert not any(decomposed(shape, 0.0, True) for shape in ((1, 3), (3, 1), (2, 2, 2), (6,), ()))
    assert averaged((2, 3), None, {"outside": False})
    assert not averaged((2, 3), None, {"outside": True})


def test_bits_do_not_depend_on_how_many_are_computed_at_a_time():
    matrices = [matrix_of((200, 260), -2.0, seed=seed) for seed in range(4)]
    alone = [triplets(matrix, 50) for matrix in matrices]
    found = {}

    def compute(place):
        for _ in range(5):
            found[place] = triplets(matrices[place], 50)

    threads = [threading.Thread(target=compute, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, wanted in enumerate(alone):
        assert all(map(torch.equal, found[place], wanted))
