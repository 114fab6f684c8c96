"""slerp by numbers written out."""

from math import cos, pi, sin, sqrt


def test_the_arc_between_two_axes(combine, close):
    close(combine("slerp", [[0.0, 1.0]], base=[1.0, 0.0], t=0.5), [sqrt(0.5), sqrt(0.5)])
    close(combine("slerp", [[0.0, 1.0]], base=[1.0, 0.0], t=1 / 3), [cos(pi / 6), sin(pi / 6)])


def test_lengths_are_those_of_the_models(combine, close):
    close(combine("slerp", [[0.0, 6.0]], base=[2.0, 0.0], t=0.5), [2 * sqrt(0.5), 6 * sqrt(0.5)])


def test_the_ends(combine, close):
    close(combine("slerp", [[0.0, 6.0]], base=[2.0, 1.0], t=0.0), [2, 1])
    close(combine("slerp", [[0.0, 6.0]], base=[2.0, 1.0], t=1.0), [0, 6])


def test_parallel_opposite_and_zero_are_lines(combine, close):
    close(combine("slerp", [[2.0, 0.0]], base=[1.0, 0.0], t=0.25), [1.25, 0])
    close(combine("slerp", [[-1.0, 0.0]], base=[1.0, 0.0], t=0.25), [0.5, 0])
    # the cosine with a zero is 0: a quarter turn of a vector that is not there
    close(combine("slerp", [[0.0, 0.0]], base=[1.0, 0.0], t=0.5), [sqrt(0.5), 0])


def test_tiny_and_huge_tensors_have_angles_too(combine, close):
    close(combine("slerp", [[0.0, 1e-9]], base=[1e-9, 0.0], t=0.5), [sqrt(0.5) * 1e-9] * 2)
    close(combine("slerp", [[3e-9]], base=[1e-9], t=0.5), [2e-9])
    found = combine("slerp", [[0.0, 1e200]], base=[1e200, 0.0], t=0.5)
    close(found / 1e200, [sqrt(0.5), sqrt(0.5)])
