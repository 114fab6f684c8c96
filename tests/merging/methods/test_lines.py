"""lines by numbers written out."""


def test_the_factor_grows_with_depth(combine, close):
    stack, omegas = [[2.0], [1.0]], [1.0, 2.0]
    given = {"alpha": 0.5, "beta": 1.0}
    for depth, wanted in ((0.0, 2.0), (0.5, 4.0), (1.0, 6.0), (None, 2.0)):
        close(combine("lines", stack, omegas, depth=depth, **given), [wanted])
    close(combine("lines", stack, omegas, depth=1.0, **given, **{"lambda": 0.5}), [3.0])
