"""Data in, examples out. Knows no other package of ours; imports neither torch nor transformers."""

from corpus.errors import CorpusError
from corpus.examples import Dropped, Encoded, encode, encode_all
from corpus.sources import Example, read_datasets, read_jsonl, write_jsonl

__all__ = [
    "CorpusError",
    "Dropped",
    "Encoded",
    "Example",
    "encode",
    "encode_all",
    "read_datasets",
    "read_jsonl",
    "write_jsonl",
]
