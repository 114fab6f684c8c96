"""Where the shipped files are looked for: the clone's folder, and the one that a wheel installs."""

from pathlib import Path

from plumbing import paths


def test_the_clone_has_its_assets_at_the_top() -> None:
    assert paths.assets() == Path(__file__).parents[2] / "assets"
    assert {"page.css", "page.js", "stream.js", "live", "demo"} <= {
        path.name for path in paths.assets().iterdir()
    }


def test_an_installation_has_them_in_the_package_whatever_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()  # another project's, in the same site-packages
    assert paths._assets_under(tmp_path) == tmp_path / "assets"
    (tmp_path / "workbench" / "assets").mkdir(parents=True)
    assert paths._assets_under(tmp_path) == tmp_path / "workbench" / "assets"
