"""passthrough by numbers written out."""


def test_a_model_as_it_is_or_scaled(combine, close):
    close(combine("passthrough", [[1.0, -2.0]], base=[9.0, 9.0]), [1, -2])
    close(combine("passthrough", [[1.0, -2.0]], scale=0.5), [0.5, -1])
