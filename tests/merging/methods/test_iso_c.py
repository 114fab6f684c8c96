"""iso_c by numbers written out."""


def test_singular_values_become_their_mean(combine, close):
    close(combine("iso_c", [[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]), [[2, 0], [0, 2]])
    close(
        combine("iso_c", [[[0.0, 5.0], [1.0, 0.0]]], [2.0], **{"lambda": -0.5}), [[0, -3], [-3, 0]]
    )


def test_what_has_no_singular_vectors_is_averaged(combine, close):
    close(combine("iso_c", [[4.0, 2.0], [0.0, 1.0]], **{"lambda": 2.0}), [4, 3])
    close(combine("iso_c", [[[1.0, 3.0]], [[3.0, 1.0]]]), [[2, 2]])
