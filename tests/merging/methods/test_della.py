"""della by numbers written out."""


def test_at_density_1_signs_are_elected_and_agreeing_weights_divide(combine, close):
    close(combine("della", [[3.0, 1.0], [-2.0, 4.0]]), [3, 2.5])
    close(combine("della", [[3.0, 1.0], [-2.0, 4.0]], [1.0, 3.0]), [-2, 13 / 4])
    close(combine("della", [[3.0, 1.0], [-2.0, 4.0]], [1.0, 3.0], divide_by="count"), [-6, 13 / 2])
    close(combine("della", [[3.0], [-2.0]], normalize=False, **{"lambda": 0.5}), [1.5])


def test_dropped_entries_have_no_vote(combine):
    stack = [[[2.0, 3.0, 4.0]], [[-1.0, -1.5, -2.0]]]
    found = combine("della", stack, seeds=(1, 2), density=(0.5, 1.0), epsilon=0.25, rescale=False)
    alone = combine("della", stack[:1], seeds=(1,), density=0.5, epsilon=0.25, rescale=False)
    for kept, entry, other in zip(alone[0], found[0], stack[1][0], strict=True):
        assert entry == (kept if kept else other)
