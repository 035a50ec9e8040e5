"""Lets torchvision import beside a torch it was not compiled for.

The package index's torchvision is built against CUDA torch. Beside a CPU torch its compiled operators fail to
load and ``import torchvision`` dies on the schema of ``nms``, and open_clip and diffusers with it, though none
of them calls it here. Declaring the two schemas is enough. On a machine with matching builds this does nothing.
"""

from __future__ import annotations

import importlib.util
import sys

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_LIBRARIES: list[object] = []  # torch drops the schemas when the handle is collected


def ensure_importable() -> None:
    """Declare torchvision's operator schemas if its compiled library cannot do so itself.

    Call before the first import of torchvision, open_clip or diffusers; calling again is harmless.
    """
    if _LIBRARIES or "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    import torch

    if _compiled_operators_load():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}{_SCHEMA}")
    _LIBRARIES.append(library)


def _compiled_operators_load() -> bool:
    """Try the shared library alone: importing torchvision itself half-way would leave it broken."""
    import pathlib

    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for path in pathlib.Path(spec.origin).parent.glob("_C*.*"):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            return False
        return True
    return False
