"""ramplus_tl by numbers written out."""


def test_unique_entries_are_amplified_by_what_is_shared(combine, close):
    # vector 0: one unique, one shared entry, ratio 1, at most 0.2 counts; vector 1: none unique
    close(combine("ramplus_tl", [[2.0, 4.0], [0.0, 1.0]]), [2 * (1 + 0.1 * 0.2), 2.5])
    close(
        combine("ramplus_tl", [[2.0, 4.0], [0.0, 1.0]], r=0.5, alpha=2.0), [2 * (1 + 0.5 * 1), 2.5]
    )


def test_without_shared_entries_nothing_is_amplified(combine, close):
    close(combine("ramplus_tl", [[2.0, 0.0], [0.0, 3.0]]), [2, 3])


def test_nothing_changed_and_an_epsilon_of_0(combine, close):
    close(combine("ramplus_tl", [[0.0], [0.0]], epsilon=0.0), [0])
