"""dare_ties by numbers written out."""

import torch

from merging.methods._loops import drawn_from, stream


def test_at_density_1_signs_are_elected(combine, close):
    close(combine("dare_ties", [[3.0, 1.0], [-2.0, 1.0]]), [3, 2])
    close(combine("dare_ties", [[3.0, 1.0], [-2.0, 1.0]], normalize=True), [3, 1])
    close(combine("dare_ties", [[3.0], [-2.0]], [0.2, 0.8], elect="weighted"), [-1.6])
    close(combine("dare_ties", [[3.0], [-2.0]], [0.2, 0.8], elect="unweighted"), [0.6])
    close(combine("dare_ties", [[3.0], [-2.0]], **{"lambda": 2.0}), [6])


def test_signs_are_elected_among_what_was_kept(combine):
    """Vector 0 loses entries where its mask is 0; there the other's sign stands alone."""
    ones = [1.0] * 31
    found = combine(
        "dare_ties", [[2.0] * 31, [-1.0] * 31], seeds=(5, 6), density=(0.5, 1.0), rescale=False
    )
    mask = torch.from_numpy(drawn_from(stream(5, 0, 31)) < 0.5)
    assert torch.equal(found, torch.where(mask, 2.0, -1.0).double()) and len(ones) == 31
