"""nearswap by numbers written out."""


def test_moves_by_at_most_t(combine, close):
    close(combine("nearswap", [[0.5, -3.0, 0.0, 1.0]], t=1.0), [0.5, -1, 0, 1])
    close(combine("nearswap", [[0.5, -3.0]], t=0.0), [0, 0])
