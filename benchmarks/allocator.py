"""Keeps freed memory with the process, so that large arrays do not have to be asked from the system at every step."""

from __future__ import annotations

import ctypes

# Numbers of glibc's malloc.h, which has no binding in Python.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER = 2**31 - 1
_STEP = 64 << 20


def keep_freed_memory() -> bool:
    """Tell the C library's allocator to reuse memory rather than return it; call it once, early in a program.

    By default glibc maps each array above some megabytes anew and gives it back when it is freed. The system then
    clears every page again at its first use, which on virtual machines takes longer than much of what a small
    network does with it. The price is that a process stays as large as it once was. No number changes.

    Returns:
        Whether the allocator took it; other C libraries than glibc have no such settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return False
    settings = ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _STEP))
    return all(mallopt(name, value) == 1 for name, value in settings)
