"""Datasets by name, for configuration files."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from pasta_gym.datasets.records import PreferenceDataset

KINDS: dict[str, tuple[str, str]] = {
    "hpdv2": ("pasta_gym.datasets.hpdv2", "HPDv2"),
    "mini_raters": ("pasta_gym.datasets.mini_raters", "MiniRaters"),
    "pasta_sessions": ("pasta_gym.datasets.pasta_sessions", "PastaSessions"),
    "pickapic": ("pasta_gym.datasets.pickapic", "PickAPic"),
    "simulacra": ("pasta_gym.datasets.simulacra", "Simulacra"),
}
"""Module and class by kind. Modules are imported on first use: some need pyarrow, an extra."""


def open_dataset(kind: str, **options: Any) -> PreferenceDataset:
    """Open a dataset by the name of its kind.

    Args:
        kind: A key of ``KINDS``.
        **options: Arguments of the dataset's class, such as ``path`` or ``split``.

    Raises:
        ValueError: If the kind or an option is unknown, or one is missing. A ``DatasetError`` if files are missing.
        ModuleNotFoundError: If pyarrow is not installed.
    """
    dataset_class = _class_of(kind)
    _require_options(kind, dataset_class, options)
    dataset: PreferenceDataset = dataset_class(**options)
    return dataset


def options_of(kind: str) -> tuple[str, ...]:
    """Names of the options that a kind of dataset has.

    Raises:
        ValueError: If the kind is unknown.
        ModuleNotFoundError: If pyarrow is not installed.
    """
    return tuple(inspect.signature(_class_of(kind)).parameters)


def _class_of(kind: str) -> type:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(sorted(KINDS))}, got {kind!r}")
    module, name = KINDS[kind]
    try:
        dataset_class: type = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ModuleNotFoundError(
            f"the dataset {kind} needs pyarrow; install it with: pip install 'pasta-gym[train]'", name="pyarrow"
        ) from error
    return dataset_class


def _require_options(kind: str, dataset_class: type, options: dict[str, Any]) -> None:
    signature = inspect.signature(dataset_class)
    try:
        signature.bind(**options)
    except TypeError as error:
        accepted = ", ".join(signature.parameters)
        raise ValueError(f"the dataset {kind} cannot be opened ({error}); its options are {accepted}") from error
