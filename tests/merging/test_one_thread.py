"""The limit of numpy's and scipy's threads, which several threads ask for."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json
from concurrent.futures import ThreadPoolExecutor
from merging.one_thread import _libraries, one_thread

def threads():
    return [each["num_threads"] for each in _libraries().info()]

seen = [threads()]
# The first to enter and the last to leave are different threads, which both live on.
with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as last:
    for thread, step in ((first, "enter"), (last, "enter"), (first, "exit"), (last, "exit")):
        thread.submit(getattr(one_thread, f"__{step}__")).result()
        seen.append(threads())
print(json.dumps(seen))
"""


@pytest.mark.skipif(os.cpu_count() == 1, reason="the libraries have one thread anyway")
def test_the_limit_is_lifted_by_the_last_that_leaves():
    """In a process of its own, because the tests run with one thread."""
    two = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | two,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=120,
    )
    before, *inside, after = json.loads(done.stdout)
    assert set(before) == {2}  # numpy's library and scipy's
    assert [set(each) for each in inside] == [{1}] * 3
    assert after == before
