"""What of a folder belongs to a copy of the model: everything but weights, code and pickles."""

import os
import pickle
from pathlib import Path

import pytest

from merging import folder_files as rule
from merging.folder_files import choose_files, describe_left_out, folder_files, is_plain


def put(folder: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


TAKEN = [
    "config.json", "source.spm", "target.spm", "vocab.json", "bpe.codes", "vocab-src.json",
    "tokenizer.model.v3", "tekken.json", "normalizer.json", "preprocessor_config.json",
    "1_Pooling/config.json", "figures/a b.png", "größe.txt", "LICENSE", "original/params.json",
    "additional_chat_templates/rag.jinja", "sub/README.md", "a/b/c/d/e.txt", "USE_POLICY.md",
    "bpe_simple_vocab_16e6.txt.gz", "speaker_embeddings/v2/en_0.npy", "noextension",
]  # fmt: skip
UNSAID = [
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "onnx/model.onnx",
    "openvino/openvino_model.bin", "openvino/openvino_model.xml", "original/consolidated.00.pth",
    "m.mlpackage/Manifest.json", ".env", ".git/config", "sub/.cache/x", ".gitattributes",
    "README.md", "recipe.yml", "MANIFEST.json", "training.json", "adapter_config.json",
    "runs/events.out.tfevents.1.host", "unet/diffusion.safetensors.index.fp16.json",
]  # fmt: skip


def test_everything_comes_along_but_weights_code_and_pickles(tmp_path):
    put(tmp_path, *TAKEN, *UNSAID, "modeling.py", "sub/run.sh", "x.pkl")
    chosen = folder_files(tmp_path)
    assert chosen.taken == tuple(sorted(TAKEN))
    assert chosen.nbytes == len(TAKEN)
    assert chosen.left_out == {
        "modeling.py": "it is code",
        "sub/run.sh": "it is code",
        "x.pkl": "it is a pickle",
    }
    # The hub's listing has names and sizes only.
    assert choose_files(dict.fromkeys([*TAKEN, *UNSAID], 1)).taken == chosen.taken


def test_an_openvino_graph_is_left_with_its_weights_and_other_xml_comes_along():
    sizes = dict.fromkeys(["a.xml", "a.bin", "notes.xml"], 1)
    assert choose_files(sizes).taken == ("notes.xml",)


def test_models_and_trainings_in_sub_folders_stay_there():
    names = [
        "checkpoint-500/config.json", "checkpoint-500/trainer_state.json",
        "german/config.json", "german/model.safetensors", "german/deep/er.txt",
        "lora/adapter_config.json", "lora/notes.txt",
        "2_Dense/config.json", "2_Dense/model.safetensors",
    ]  # fmt: skip
    chosen = choose_files(dict.fromkeys(names, 1), ["2_Dense"])
    assert chosen.taken == ("2_Dense/config.json",)
    assert chosen.left_out == {
        "checkpoint-500/": "it is a state of a training",
        "german/": "it is a model of its own",
        "lora/": "it is a model of its own",
    }


def test_a_file_that_is_too_large_is_named(tmp_path):
    put(tmp_path, "config.json")
    with (tmp_path / "junk.dat").open("wb") as file:
        file.truncate(3_000_000_000)
    chosen = folder_files(tmp_path)
    assert chosen.taken == ("config.json",)
    assert chosen.left_out == {"junk.dat": "it has 3,000,000,000 bytes, more than 256,000,000"}


def test_all_files_together_are_bounded_and_the_top_and_the_small_come_first(monkeypatch):
    monkeypatch.setattr(rule, "TOTAL_BYTES", 100)
    chosen = choose_files({"a/small.txt": 5, "large.txt": 70, "config.json": 10, "tok.json": 20})
    assert chosen.taken == ("config.json", "large.txt", "tok.json")
    assert list(chosen.left_out) == ["a/small.txt"] and chosen.nbytes == 100
    monkeypatch.setattr(rule, "FILES", 2)
    assert choose_files(dict.fromkeys("abcd", 1)).taken == ("a", "b")


def test_links_special_files_and_disguises(tmp_path):
    (tmp_path / "secret").write_text("s")
    folder = tmp_path / "model"
    put(folder, "config.json", "vocab.txt", ".env", "sub/x.txt", "closed.txt")
    put(folder, "dict.txt", content=pickle.dumps({"a": 1}))
    os.mkfifo(folder / "fifo.txt")
    for name, target in {
        "LICENSE": "../secret",
        "chain": "LICENSE",
        "etc": "/etc",
        "device": "/dev/zero",
        "broken": "nowhere",
        "loop": "loop",
        "NOTICE": ".env",
        "linked": "sub",
        "vocab2.txt": "vocab.txt",
        "sub/up.txt": "../config.json",
    }.items():
        (folder / name).symlink_to(target)
    chosen = folder_files(folder)
    assert chosen.taken == (
        "closed.txt", "config.json", "sub/up.txt", "sub/x.txt", "vocab.txt", "vocab2.txt",
    )  # fmt: skip
    outside = "it is a link that leads out of its folder"
    assert chosen.left_out == {
        "LICENSE": outside,
        "NOTICE": "it is a link to .env",
        "broken": "it cannot be read: No such file or directory",
        "chain": outside,
        "device": outside,
        "dict.txt": "its content is a pickle",
        "etc/": "it is a link to a folder",
        "fifo.txt": "it is not a regular file",
        "linked/": "it is a link to a folder",
        "loop": "it is not a regular file",
    }


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    """As root every file can be read, so the refusal is made here."""
    put(tmp_path, "config.json", "closed.txt", "closed/x.txt")
    real_open, real_scandir = os.open, os.scandir

    def refuse(real):
        def call(path, *arguments, **more):
            if str(path).endswith(("closed.txt", "closed")):
                raise PermissionError(13, "Permission denied", path)
            return real(path, *arguments, **more)

        return call

    monkeypatch.setattr(os, "open", refuse(real_open))
    monkeypatch.setattr(os, "scandir", refuse(real_scandir))
    chosen = folder_files(tmp_path)
    assert chosen.taken == ("config.json",)
    assert chosen.left_out == dict.fromkeys(
        ["closed.txt", "closed/"], "it cannot be read: Permission denied"
    )


def test_names_that_not_every_system_can_have(tmp_path):
    put(tmp_path, "config.json", "a\nb.txt", "a\\b.txt")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.txt"))).write_text("x")
    chosen = folder_files(tmp_path)
    assert chosen.taken == ("config.json",)
    assert list(chosen.left_out) == ["a\nb.txt", "a\\b.txt", "bad?.txt"]


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../x", "a//b", "./a", "a/.", "a\0b", "x" * 256, "a/" * 5 + "b"]
)  # fmt: skip
def test_names_that_lead_elsewhere_are_not_plain(name):
    assert not is_plain(name)
    assert is_plain("a/b/c/d/e.txt") and is_plain("..a")


def test_a_deep_or_crowded_folder_is_not_walked_to_its_end(tmp_path, monkeypatch):
    put(tmp_path, "a/b/c/d/e/f.txt", "a/b/c/d/g.txt")
    assert folder_files(tmp_path).left_out == {"a/b/c/d/e/": "it lies more than 4 folders deep"}
    monkeypatch.setattr(rule, "FILES", 0)
    put(tmp_path, "top.txt")
    assert folder_files(tmp_path).left_out["a/"] == "it comes after 0 other files"


def test_left_out_files_are_described_by_their_reasons():
    left_out = {f"{i}.py": "it is code" for i in range(7)} | {"big.txt": "it is big"}
    assert describe_left_out(left_out) == (
        "0.py, 1.py, 2.py, 3.py, 4.py and 2 more (it is code); big.txt (it is big)"
    )
