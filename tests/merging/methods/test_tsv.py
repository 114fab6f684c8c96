"""tsv by numbers written out, and by its laws."""

import torch


def test_leading_triples_of_each(combine, close):
    one, other = [[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]]
    close(combine("tsv", [one, other]), [[2, 0], [0, 3]])
    close(combine("tsv", [one, other], [2.0, -1.0], **{"lambda": 0.5}), [[2, 0], [0, -1.5]])


def test_what_has_no_singular_vectors_is_averaged(combine, close):
    close(combine("tsv", [[4.0, 2.0], [0.0, 1.0]], [1.0, 2.0]), [2, 2])
    close(combine("tsv", [[[1.0, 3.0]], [[3.0, 1.0]]]), [[2, 2]])


def test_more_vectors_than_ranks_are_averaged(combine, close):
    close(combine("tsv", [[[3.0, 0.0], [0.0, 3.0]]] * 3), [[3, 0], [0, 3]])


def test_shared_directions_are_made_orthogonal(combine):
    """Two rank-one deltas along nearly one direction: the rebuilt matrix still has both singular values."""
    generator = torch.Generator().manual_seed(0)
    u, v = (
        torch.randn(7, generator=generator, dtype=torch.float64),
        torch.randn(5, generator=generator, dtype=torch.float64),
    )
    near = u + 0.1 * torch.randn(7, generator=generator, dtype=torch.float64)
    stack = torch.stack(
        [
            torch.outer(u / u.norm(), v / v.norm()),
            2 * torch.outer(near / near.norm(), v.flip(0) / v.norm()),
        ]
    )
    sizes = torch.linalg.svdvals(combine("tsv", stack.tolist()))
    assert torch.allclose(sizes[:2], torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert sizes[4] < 1e-12


def test_equal_vectors_count_once(combine, close):
    close(combine("tsv", [[[2.0, 0.0], [0.0, 0.0]]] * 2), [[2, 0], [0, 0]])
    line = torch.outer(torch.arange(1.0, 5), torch.arange(2.0, 7))
    found = combine("tsv", [line.tolist()] * 2, dtype=torch.float32)
    torch.testing.assert_close(found, line)
