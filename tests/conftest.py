"""What all tests share: one thread, no network, no waiting threads that burn a core, examples of properties."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["DEM_CACHE"] = ""  # digests are not kept between tests, and not in a home

import tempfile
from pathlib import Path

import torch
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")  # not in the working tree

torch.set_num_threads(1)

# Property tests try a few examples for a newcomer and many in CI.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile("thorough" if os.environ.get("CI") == "true" else "quick")
