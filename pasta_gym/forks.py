"""Lets processes that were made by a fork, such as those of Gymnasium's AsyncVectorEnv, compute with torch.

OpenMP's threads do not survive a fork. If the parent has used them, the child waits for ever for a team of threads at
its first large operation. With one thread the child needs no team, and its brothers keep the other cores busy.
"""

from __future__ import annotations

import os
import sys

_HOOKS: list[object] = []


def use_one_thread_in_forks() -> None:
    """Give torch one thread in every process that this one forks from now on; calling again is harmless."""
    if not _HOOKS and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_use_one_thread)
        _HOOKS.append(_use_one_thread)


def _use_one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
