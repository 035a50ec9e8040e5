"""What the commands share: how bad input ends one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End a command with ``error: ...`` and status 1 where a ``ValueError`` says what to do; decorates ``main``.

    Raises:
        SystemExit: In place of a ``ValueError``, which is its cause. Any other error keeps its traceback: it is ours.
    """
    try:
        yield
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
