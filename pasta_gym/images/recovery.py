"""Puts a pipeline that ran out of memory back to what it was, so that it can be called again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Recovery:
    """Remembers the precision of a pipeline's weights, and restores it before the call after one that failed.

    Diffusers decodes SDXL's latents in float32 (``force_upcast``) and casts the autoencoder back to float16 only after
    a decoding that succeeds. Where it runs out of memory in between, the next call would fail with another error.

    Args:
        pipeline: A diffusers pipeline.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._dtypes: list[torch.dtype] = []
        self._is_needed = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Enclose one call of the pipeline.

        Restoring waits for the next call: only then are the tensors of the failed one released.
        """
        import torch

        if self._is_needed:
            self._restore()
            self._is_needed = False
        else:
            self._dtypes = [tensor.dtype for tensor in self._weights()]
        try:
            yield
        except torch.OutOfMemoryError:
            self._is_needed = True
            raise

    def _restore(self) -> None:
        """Cast every weight back, one by one: some parts keep a few in another precision."""
        for tensor, dtype in zip(self._weights(), self._dtypes, strict=True):
            if tensor.dtype != dtype:
                tensor.data = tensor.data.to(dtype)
        if hasattr(self.pipeline, "maybe_free_model_hooks"):
            self.pipeline.maybe_free_model_hooks()  # with offload="model": the part that failed leaves the GPU

    def _weights(self) -> Iterator[torch.Tensor]:
        import torch

        for part in getattr(self.pipeline, "components", {}).values():
            if isinstance(part, torch.nn.Module):
                yield from itertools.chain(part.parameters(), part.buffers())
