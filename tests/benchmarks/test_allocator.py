"""Freed memory is reused: seen from the pages that a process has to be given."""

import ctypes
import subprocess
import sys

import pytest

from benchmarks import allocator

ROUNDS = """
import resource
import numpy as np
from benchmarks.allocator import keep_freed_memory
if {is_kept}:
    assert keep_freed_memory()
np.ones(8 << 20)  # 64 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(is_kept):
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS.format(is_kept=is_kept)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the setting is glibc's"
)
def test_large_arrays_take_the_memory_of_freed_ones():
    assert page_faults(is_kept=True) < page_faults(is_kept=False) / 10


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(error, monkeypatch):
    def no_library(name):
        raise error("no such library")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert not allocator.keep_freed_memory()
