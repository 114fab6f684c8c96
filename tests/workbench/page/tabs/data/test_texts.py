"""Texts on the page: escaped, cut, whole on demand, and never without end."""

from workbench.page.tabs.data.texts import CUT, MOST, text_html


def test_a_short_text_is_shown_as_it_is_and_never_as_markup():
    assert text_html("<b>1 & 2</b>") == '<p class="example">&lt;b&gt;1 &amp; 2&lt;/b&gt;</p>'


def test_a_long_text_is_folded():
    html = text_html("x" * (CUT + 1))
    assert "<details" in html and "x" * CUT + "…</span>" in html and "x" * (CUT + 1) in html
    assert "<details" not in text_html("x" * CUT)


def test_a_very_long_text_says_that_the_file_has_all():
    html = text_html("y" * 10_000)
    assert "y" * MOST in html and "y" * (MOST + 1) not in html
    assert "first 4,000 of 10,000 characters" in html
