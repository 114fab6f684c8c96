"""The hint that follows an unknown word, and lists that are cut short."""

from plumbing.suggest import listed, nearest


def test_the_nearest_word_or_all_of_them_in_alphabetical_order():
    assert nearest("wieght", ["weight", "density"]) == "did you mean 'weight'?"
    assert nearest("zzz", ["weight", "density"]) == "known: density, weight"
    assert nearest(7, {"b": 1, "a": 2}) == "known: a, b"


def test_a_long_list_says_how_many_more_there_are():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg"), most=3) == "a, b, c and 4 more"
