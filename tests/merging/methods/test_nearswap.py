"""nearswap by numbers written out."""


def test_moves_by_at_most_t(combine, close):
    close(combine("nearswap", [[0.5, -3.0, 0.0, 1.0]], t=1.0), [0.5, -1, 0, 1])
    close(combine("nearswap", [[0.5, -3.0]], t=0.0), [0, 0])


def test_a_limit_below_a_millionth_holds_for_small_changes_too(combine, close):
    close(combine("nearswap", [[1e-7, -3e-9]], t=1e-8), [1e-8, -3e-9])
