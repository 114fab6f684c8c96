"""Reads training and evaluation data into records, token ids and groups.

It imports neither torch nor transformers.
"""

from corpus.counts import Counts, count
from corpus.errors import CorpusError
from corpus.jsonl import read_datasets, read_jsonl, read_records, write_jsonl
from corpus.records import Chat, Example, Message, Record
from corpus.source import Source, load
from corpus.subsets import PROPORTIONS, nested, share_of, split
from corpus.tokens import Dropped, Encoded, check_template, encode, encode_all

__all__ = [
    "PROPORTIONS",
    "Chat",
    "CorpusError",
    "Counts",
    "Dropped",
    "Encoded",
    "Example",
    "Message",
    "Record",
    "Source",
    "check_template",
    "count",
    "encode",
    "encode_all",
    "load",
    "nested",
    "read_datasets",
    "read_jsonl",
    "read_records",
    "share_of",
    "split",
    "write_jsonl",
]
