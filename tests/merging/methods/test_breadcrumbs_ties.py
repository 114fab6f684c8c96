"""breadcrumbs_ties by numbers written out."""

STACK = [[4.0, -1.0, 3.0, -2.0], [1.0, 2.0, -4.0, -9.0]]


def test_trims_then_elects(combine, close):
    # left are [0, 0, 3, −2] and [0, 2, −4, 0]; the third entry elects −
    given = {"density": 0.5, "gamma": 0.25}
    close(combine("breadcrumbs_ties", STACK, **given), [0, 2, -4, -2])
    close(combine("breadcrumbs_ties", STACK, [2.0, 1.0], **given), [0, 2, 6, -4])
    close(combine("breadcrumbs_ties", STACK, [2.0, 1.0], normalize=True, **given), [0, 2, 3, -2])
    close(combine("breadcrumbs_ties", STACK, **given, **{"lambda": -1.0}), [0, -2, 4, 2])
