"""Work in batches that shrink until they fit the accelerator's memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


def work_in_batches(
    n: int, batch_size: int, work: Callable[[slice], None], *, fill: bool = False, what: str = "picture"
) -> int:
    """Call ``work`` on slices of ``range(n)``; one that runs out of memory is halved and tried again.

    Args:
        n: How many items.
        batch_size: Largest slice to begin with.
        work: Does one slice; it must leave nothing behind when it runs out of memory.
        fill: Whether every batch is as long as the present batch size, for work that fills up the last one. The last
            slice then reaches past ``n``.
        what: What an item is, for messages.

    Returns:
        The largest slice that fitted; begin with it the next time.

    Raises:
        RuntimeError: If a single item does not fit.
    """
    import torch

    start = 0
    while start < n:
        size = batch_size if fill else min(batch_size, n - start)
        try:
            work(slice(start, start + size))
            start += size
            continue
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise RuntimeError(
                    f"not even one {what} fits the accelerator's memory; use offload='model', attention_slicing=True, "
                    "a lower precision or a smaller size"
                ) from error
            batch_size = size // 2
        # Outside of the except block: the error's traceback would hold the tensors of the failed batch.
        logger.warning("a batch of %d %ss does not fit the memory; going on with %d", size, what, batch_size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return batch_size
