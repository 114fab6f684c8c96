"""Reads training and evaluation data into records, token ids and groups.

It imports neither torch nor transformers.
"""

from corpus.counts import Counts, count
from corpus.errors import CorpusError
from corpus.jsonl import dataset_files, read_datasets, read_records, write_jsonl
from corpus.messages import Message
from corpus.records import Chat, Example, Record
from corpus.selection import Chosen, Selection, load, read_selection, write_selection
from corpus.source import Source
from corpus.subsets import PROPORTIONS, nested, share_of, split
from corpus.tokens import Dropped, Encoded, check_template, encode, encode_all, split_chats

__all__ = [
    "PROPORTIONS",
    "Chat",
    "Chosen",
    "CorpusError",
    "Counts",
    "Dropped",
    "Encoded",
    "Example",
    "Message",
    "Record",
    "Selection",
    "Source",
    "check_template",
    "count",
    "dataset_files",
    "encode",
    "encode_all",
    "load",
    "nested",
    "read_datasets",
    "read_records",
    "read_selection",
    "share_of",
    "split",
    "split_chats",
    "write_jsonl",
    "write_selection",
]
