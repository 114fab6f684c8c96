"""Sources: files, folders, and datasets as the hub lays them out; what is not there is said before anything is trained."""

import http.server
import os
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import pytest

from corpus import Chat, CorpusError, Example, Message, Source, load, nested, write_jsonl
from corpus.instructions import Instruction
from corpus.reach import Reach
from corpus.source import _explain

ROOT = Path(__file__).parents[2]
ROWS = [Example(f"number {n} is", f" {n}") for n in range(11)]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def named(rows, name):
    return [
        Example(row.prompt, row.completion, row.choices, row.answer, row.label or name)
        for row in rows
    ]


@pytest.fixture
def hub(tmp_path):
    """hub(rows, split="train", features=None): a folder as the hub lays a dataset out, in parquet."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()

    def make(rows, split="train", features=None):
        folder = tmp_path / "made"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table = (
            Dataset.from_list(rows, features=features)
            if rows
            else Dataset.from_dict({n: [] for n in features}, features)
        )
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
        return folder

    return make


@pytest.fixture
def read(tmp_path):
    """read(path, **fields): the records of a source "mine", with the library's cache in a folder of the test."""
    return lambda path, **fields: load(Source("mine", str(path), **fields), tmp_path / "cache")


def test_a_file_and_a_folder_give_the_same_records(tmp_path, read):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "test.jsonl", ROWS[:3])
    assert read(tmp_path) == read(tmp_path / "train.jsonl") == named(ROWS, "mine")
    assert read(tmp_path, split="test") == named(ROWS[:3], "mine")


def test_a_label_is_the_field_that_is_asked_for_else_the_name_of_the_source(tmp_path, read):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"prompt": "a", "completion": " b", "task": "t", "kind": "k"}\n{"prompt": "c", "completion": " d"}\n',
        "utf-8",
    )
    assert [row.label for row in read(path)] == ["t", "mine"]
    assert [row.label for row in read(path, label_field="kind")] == ["k", "mine"]
    assert [row.label for row in read(path, label_field="")] == ["mine", "mine"]
    with pytest.raises(
        CorpusError, match=r'source mine: none of the 2 records of .*a\.jsonl has the field "knid"'
    ):
        read(path, label_field="knid")


def test_a_share_is_a_nested_subset_in_the_order_of_the_file(tmp_path, read):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    half, third = (read(tmp_path / "a.jsonl", share=share, seed=3) for share in ("1/2", "1/3"))
    assert half == [named(ROWS, "mine")[index] for index in sorted(nested(11, "1/2", 3))]
    assert (len(half), len(third)) == (5, 3)
    assert {row.prompt for row in third} < {row.prompt for row in half}
    assert read(tmp_path / "a.jsonl", share="1/2", seed=4) != half
    with pytest.raises(
        CorpusError, match=r"source mine: a share of 1/12 of 11 records is none\..*at least 1/11"
    ):
        read(tmp_path / "a.jsonl", share="1/12")


def test_a_share_becomes_a_fraction():
    assert (
        Source("a", "b", share=0.25).share == Source("a", "b", share="1/4").share == Fraction(1, 4)
    )
    assert Source("a", "b").share == 1
    assert Source("a", Path("b") / "c") == Source("a", "b/c")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": " "}, "a source needs a name"),
        ({"path": ""}, "a source needs a path"),
        ({"split": ""}, "a source needs a split"),
        ({"share": "x"}, "source a: 'x' is not a share"),
        ({"share": 0}, "source a: a share of 0 leaves no records"),
    ],
)
def test_a_source_that_says_nothing_is_refused(fields, words):
    with pytest.raises(CorpusError, match=words):
        Source(**({"name": "a", "path": "b"} | fields))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"prompt": "a", "completion": " b", "id": 1}], Example("a", " b", label="mine")),
        (
            [{"prompt": "a", "completion": " b", "choices": ["b", "c"], "answer": 0, "task": "t"}],
            Example("a", " b", ("b", "c"), 0, "t"),
        ),
        (
            [{"prompt": "a", "completion": " b", "answer": "because"}],
            Example("a", " b", label="mine"),
        ),
        (
            [{"messages": CHAT, "prompt": "hi"}],
            Chat((Message("user", "hi"), Message("assistant", "hello")), "mine"),
        ),
        (
            [
                {
                    "conversations": [
                        {"from": "human", "value": "hi"},
                        {"from": "gpt", "value": "hello"},
                    ]
                }
            ],
            Chat((Message("user", "hi"), Message("assistant", "hello")), "mine"),
        ),
        (
            [{"instruction": "Add.", "input": "", "output": "4", "text": "all"}],
            Example(
                "Instruction: Add.\nOutput:",
                " 4",
                label="mine",
                instruction=Instruction("Add.", "", "4"),
            ),
        ),
    ],
)
def test_a_dataset_of_the_hub_is_mapped_by_its_columns(hub, read, rows, expected):
    assert read(hub(rows)) == [expected]


def test_a_sequence_of_messages_and_named_classes_are_understood(hub, read):
    from datasets import ClassLabel, Features, Sequence, Value

    features = Features(
        {
            "messages": Sequence({"role": Value("string"), "content": Value("string")}),
            "kind": ClassLabel(names=["small", "large"]),
        }
    )
    columns = {"role": ["user", "assistant"], "content": ["hi", "hello"]}
    rows = [{"messages": columns, "kind": 1}, {"messages": columns, "kind": None}]
    made = read(hub(rows, features=features), label_field="kind")
    assert made == [
        Chat((Message("user", "hi"), Message("assistant", "hello")), label)
        for label in ("large", "mine")
    ]


def test_columns_that_are_not_needed_are_never_decoded(hub, read):
    """A picture that is none would fail on decoding."""
    from datasets import Features, Image, Value

    features = Features(
        {"prompt": Value("string"), "completion": Value("string"), "picture": Image()}
    )
    rows = [{"prompt": "a", "completion": " b", "picture": {"bytes": b"no picture", "path": None}}]
    assert read(hub(rows, features=features)) == [Example("a", " b", label="mine")]


def test_rows_about_pictures_are_refused_and_those_without_one_are_read(hub, read):
    """The pictures, which are none, are not decoded for that."""
    from datasets import Features, Image, Sequence, Value

    features = Features(
        {"prompt": Value("string"), "completion": Value("string"),
         "image": Image(), "images": Sequence(Image())}
    )  # fmt: skip
    picture = {"bytes": b"no picture", "path": None}
    row = {"prompt": "a", "completion": " b", "image": None, "images": []}
    assert len(read(hub([row, row | {"images": None}], features=features))) == 2
    with pytest.raises(CorpusError) as caught:
        read(hub([row, row | {"image": picture}, row | {"images": [picture]}], features=features))
    told = 'row 1, field "image"; row 2, field "images": only texts'
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        ([{"question": "a", "reply": "b"}], {}, ["made (train) has the columns question, reply", '"messages"', "JSONL file"]),
        ([{"prompt": "a", "completion": " b"}, {"prompt": "a", "completion": None}], {}, ['row 1, field "completion"', "null"]),
        ([{"messages": [*CHAT, {"role": "function", "content": "x"}]}], {}, ["row 0", '"messages[2].role"', "'function'"]),
        ([{"prompt": "a", "completion": " b"}], {"split": "test"}, ["split 'test'", "['train']"]),
        ([{"prompt": "a", "completion": " b"}], {"config": "main"}, ["configuration 'main'", "Available: ['default']"]),
        ([{"prompt": "a", "completion": " b"}], {"split": "train[:0]"}, ["split 'train[:0]'", "corresponds to no data. Give"]),
    ],
)  # fmt: skip
def test_a_dataset_that_cannot_be_used_is_named(hub, read, rows, fields, words):
    with pytest.raises(CorpusError) as caught:
        read(hub(rows), **fields)
    for word in words:
        assert word in str(caught.value)


def test_a_dataset_without_rows_is_named(hub, read):
    from datasets import Features, Value

    features = Features({"prompt": Value("string"), "completion": Value("string")})
    with pytest.raises(
        CorpusError,
        match=r"source mine: .*made cannot be read as split 'train'.*corresponds to no data",
    ):
        read(hub([], features=features))


def test_folders_that_cannot_be_read_say_why(tmp_path, read):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CorpusError, match=r"source mine: .*empty cannot be read as split 'train'.*any data files"
    ):
        read(tmp_path / "empty")
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit", "utf-8")
    with pytest.raises(CorpusError, match=r"scripts are no longer supported.*as JSONL or parquet"):
        read(tmp_path / "script")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(CorpusError, match="not a parquet file"):
        read(tmp_path / "broken")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "train.json").write_text('{"prompt": "a"}\n{"prompt', "utf-8")
    with pytest.raises(CorpusError, match="JSON parse error"):
        read(tmp_path / "torn")


def test_a_folder_of_other_splits_or_of_datasets_is_not_taken_for_one(tmp_path, read):
    write_jsonl(tmp_path / "one" / "validation.jsonl", ROWS)
    write_jsonl(tmp_path / "one" / "test.jsonl", ROWS)
    with pytest.raises(
        CorpusError,
        match=r"has no train\.jsonl; it holds test, validation\. Give one of them as split",
    ):
        read(tmp_path / "one")
    write_jsonl(tmp_path / "all" / "b" / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "all" / "a" / "train.jsonl", ROWS)
    with pytest.raises(
        CorpusError,
        match=r"has no train\.jsonl, its folders a, b have\. Give one of them, such as .*all/a",
    ):
        read(tmp_path / "all")


@pytest.mark.parametrize(
    "path",
    [
        "data/none.jsonl",
        "/nowhere/at/all",
        "a/b/c",
        "org/name@v1",
        "none.parquet",
        "org--x/y",
        "name",
        "squad",
        "hf://datasets/org/name",
        "https://hub/org/name",
        "org/name/",
        "../org/name",
    ],
)
def test_a_path_that_is_not_there_is_not_looked_up(read, path):
    with pytest.raises(
        CorpusError, match="is no file or folder here, and no name of a hub dataset"
    ) as caught:
        read(path)
    assert ("revision" in str(caught.value)) == ("@" in path)


@pytest.mark.parametrize(
    "name", ["text", "csv", "json", "parquet", "pandas", "imagefolder", "arrow"]
)
def test_a_readers_name_reads_nothing(tmp_path, read, monkeypatch, name):
    """`datasets` has readers of these names, which read the files of the working directory."""
    (tmp_path / "secret.txt").write_text("s", "utf-8")
    write_jsonl(tmp_path / "secret.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=f"{name} is no file or folder here, and no name of"):
        read(name)
    # A folder of this name is a folder: it has a train.parquet or nothing.
    (tmp_path / name).mkdir()
    with pytest.raises(CorpusError, match="any data files"):
        read(name)


@pytest.mark.parametrize("field", ["split", "config", "revision"])
@pytest.mark.parametrize(
    "value",
    ["/etc/passwd", "../x", "..", ".", "a/../../x", "~/x", "a\\b", "a\nb", ".hidden", "a//b"],
)
def test_a_split_or_configuration_is_no_path(tmp_path, field, value):
    with pytest.raises(CorpusError, match=f"source mine: {field} is .*, which is a path"):
        Source("mine", str(tmp_path), **{field: value})


def test_plain_splits_and_revisions_are_accepted(tmp_path):
    for field, value in (("split", "train[:10%]"), ("split", "a-b_c.d"), ("config", "en-fr"),
                         ("config", "cola & more"), ("revision", "refs/convert/parquet"),
                         ("revision", "v1.0")):  # fmt: skip
        assert getattr(Source("mine", str(tmp_path), **{field: value}), field) == value
    with pytest.raises(CorpusError, match="config is 'a/b', which is a path"):
        Source("mine", str(tmp_path), config="a/b")


def test_a_limited_reach_reads_its_roots_and_asks_no_hub(tmp_path, monkeypatch):
    root = tmp_path / "root"
    write_jsonl(root / "data" / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    reach = Reach((root,), hub=False)
    monkeypatch.chdir(root)
    for path in (root / "data", "data", root / "data" / "train.jsonl"):
        assert load(Source("mine", str(path)), reach=reach) == named(ROWS, "mine")
    for path in (tmp_path, tmp_path / "train.jsonl", "..", "/etc/passwd", "~/none"):
        with pytest.raises(CorpusError, match="source mine: .* is outside the folders"):
            load(Source("mine", str(path)), reach=reach)
    # Inside by its path, so that only the rule about the hub is left.
    with pytest.raises(CorpusError, match="org/name is no file or folder here. Nothing is fetched"):
        load(Source("mine", "org/name"), reach=reach)
    (root / "data" / "test.jsonl").symlink_to(tmp_path / "train.jsonl")
    with pytest.raises(CorpusError, match=r"test\.jsonl is a link that leads out"):
        load(Source("mine", str(root / "data"), split="test"), reach=reach)


@pytest.mark.parametrize("name", ["org/name-of.set", "org/name"])
def test_offline_a_hub_name_that_is_not_in_the_cache_says_so(read, name):
    with pytest.raises(
        CorpusError,
        match=rf"source mine: {name} is no file or folder here and not in the cache.*HF_HUB_OFFLINE",
    ):
        read(name)


def test_a_hub_that_cannot_be_reached_is_told_from_one_that_is_switched_off():
    """The words only: the library tries for 23 seconds before it raises this."""
    error = ConnectionError("Couldn't reach 'org/name' on the Hub (LocalEntryNotFoundError)")
    assert _explain(error, Source("mine", "org/name")) == (
        "org/name is no file or folder here, and the hub cannot be reached (Couldn't reach 'org/name' on the Hub "
        "(LocalEntryNotFoundError)). Check the network, or correct the path."
    )


class Refusing(http.server.BaseHTTPRequestHandler):
    """A hub that knows no dataset, and keeps org/gated for others."""

    def do_HEAD(self):
        gated = "org/gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        """Nothing on the terminal."""


def test_what_the_hub_answers_is_passed_on(tmp_path):
    """The library reads the hub's address once, at import, so this runs in a process of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "import sys\nfrom corpus import CorpusError, Source, load\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        load(Source('mine', name))\n"
        "    except CorpusError as error:\n        print(error)\n"
    )
    here = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, "org/none", "org/gated"],
        cwd=ROOT, env=os.environ | here, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    none, gated = done.stdout.splitlines()
    assert none.startswith("source mine: org/none is no file or folder here, and the hub says: ")
    assert "doesn't exist on the Hub" in none
    assert "gated" in gated and "HF_TOKEN" in gated
