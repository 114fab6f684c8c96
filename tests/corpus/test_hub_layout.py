"""A folder in the layout of hub datasets gives its own files, whatever its card names."""

import json

import pytest

from corpus import CorpusError, Example, Source, load, write_jsonl
from corpus.hub_layout import check_card, check_files
from corpus.reach import ANYWHERE, Reach

ROWS = [Example("one", " a"), Example("two", " b")]


@pytest.fixture
def folder(tmp_path):
    """A folder whose data file has no name of a split, so that only a card can name it."""
    write_jsonl(tmp_path / "made" / "rows" / "part.jsonl", ROWS)
    write_jsonl(tmp_path / "secret.jsonl", [Example("stolen", " s")])
    return tmp_path / "made"


def card(folder, files, name="README.md"):
    configs = json.dumps({"configs": [{"config_name": "default", "data_files": files}]})
    text = f"---\n{configs}\n---\nWords." if name == "README.md" else configs
    (folder / name).write_text(text, "utf-8")


def read(folder, tmp_path, reach=ANYWHERE, **fields):
    return load(Source("mine", str(folder), **fields), tmp_path / "cache", reach=reach)


def test_a_card_names_files_of_its_folder(folder, tmp_path):
    card(folder, [{"split": "train", "path": "rows/part.jsonl"}])
    prompts = [row.prompt for row in read(folder, tmp_path)]
    assert prompts == ["one", "two"]
    check_card(folder.parent)  # without any card


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "path",
    ["{out}/secret.jsonl", "../secret.jsonl", "rows/../../secret.jsonl", "~/secret.jsonl",
     "https://example.org/x.jsonl", "hf://datasets/org/name/x.jsonl", "zip://*::rows.zip",
     ["rows/part.jsonl", "../secret.jsonl"]],
)  # fmt: skip
def test_a_card_that_names_files_elsewhere_is_not_followed(folder, tmp_path, path, name):
    path = path.format(out=tmp_path) if isinstance(path, str) else path
    card(folder, [{"split": "train", "path": path}], name)
    with pytest.raises(CorpusError, match="source mine: .*which are not in its folder"):
        read(folder, tmp_path)


def test_a_card_cannot_hide_its_block_or_its_folder(folder, tmp_path):
    """The block ends where the hub's reader says; data_dir is a path as well."""
    (folder / "README.md").write_text(
        '---\na: "\n---x"\nconfigs: [{config_name: default, data_files: ../secret.jsonl}]\n---\n'
    )
    with pytest.raises(CorpusError, match="not in its folder"):
        read(folder, tmp_path)
    (folder / "README.md").write_text("---\nconfigs: [{config_name: d, data_dir: ..}]\n---\n")
    with pytest.raises(CorpusError, match="not in its folder"):
        read(folder, tmp_path)
    (folder / "README.md").write_text("---\n{\n---\n")
    with pytest.raises(CorpusError, match=r"README\.md cannot be read"):
        read(folder, tmp_path)


def test_links_out_of_the_reach_are_refused(folder, tmp_path):
    card(folder, [{"split": "train", "path": "rows/*"}])
    (folder / "rows" / "more.jsonl").symlink_to(tmp_path / "secret.jsonl")
    # At the command line the link is the user's own.
    assert "stolen" in [row.prompt for row in read(folder, tmp_path)]
    with pytest.raises(CorpusError, match=r"more\.jsonl is a link that leads out"):
        read(folder, tmp_path, Reach((folder,), hub=False))


@pytest.mark.parametrize(
    ("name", "words"),
    [("train.txt", "expected JSONL, parquet, CSV or arrow"), ("train.zip", "is an archive")],
)
def test_readers_that_open_more_than_their_file_are_not_used(tmp_path, name, words):
    import zipfile

    (tmp_path / "made").mkdir()
    if name.endswith("zip"):
        with zipfile.ZipFile(tmp_path / "made" / name, "w") as archive:
            archive.writestr("train.jsonl", '{"prompt": "a", "completion": " b"}')
    else:
        (tmp_path / "made" / name).write_text("words", "utf-8")
    with pytest.raises(CorpusError, match=words):
        read(tmp_path / "made", tmp_path)


def test_files_that_the_library_found_elsewhere_are_refused(folder, tmp_path):
    """check_card comes first; this is the second line, asked with a builder of the library."""
    from datasets import load_dataset_builder

    cache = {"cache_dir": str(tmp_path / "cache")}
    outside = load_dataset_builder("json", data_files=str(tmp_path / "secret.jsonl"), **cache)
    inside = load_dataset_builder("json", data_files=str(folder / "rows" / "part.jsonl"), **cache)
    check_files(inside, folder, ANYWHERE)
    with pytest.raises(CorpusError, match="outside the dataset"):
        check_files(outside, folder, ANYWHERE)
    # A dataset of the hub has files of the hub only.
    with pytest.raises(CorpusError, match="outside the dataset"):
        check_files(inside, None, ANYWHERE)
