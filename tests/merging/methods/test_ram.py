"""ram by numbers written out."""


def test_what_is_alone_stays_and_what_is_shared_is_averaged(combine, close):
    close(combine("ram", [[2.0, 4.0, 0.0], [0.0, 1.0, 0.0]]), [2, 2.5, 0])


def test_changes_up_to_epsilon_do_not_count(combine, close):
    close(combine("ram", [[2.0, 0.5], [0.5, 0.25]], epsilon=0.5), [2, 0])
