"""The configuration of a fit of the user model, checked before anything is read."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from benchmarks.settings import CONFIG_FOLDER
from benchmarks.user_model_card import CLIP_SCORE, OWN_ROWS
from pasta_gym.encoders.clip_encoder import DTYPES, find_device
from pasta_gym.settings import check_counts, check_not_negative
from pasta_gym.user_model.data import SPLITS
from pasta_gym.user_model.gather import RaterSplits
from pasta_gym.user_model.phases import PhasesConfig

KEYS = (
    "cache",
    "checkpoint_every",
    "data",
    "data_name",
    "device",
    "encoder",
    "encoder_batch_size",
    "encoder_dtype",
    "limits",
    "one_type",
    "out",
    "scores",
    "splits",
    "user_model",
)
AS_SPLIT = "as_split"
"""The option of a dataset in ``data`` that is no argument of its class: the split all of its raters are in."""


@dataclass(frozen=True)
class Limits:
    """Most records taken of each dataset; None is all. The numbers themselves are in ``conf/fit_user_model.yaml``.

    Attributes:
        max_comparisons: Of comparisons and rankings.
        max_ratings: Of ratings.
        max_sessions: Of sessions.
        max_bad_images: Share of the pictures that may be missing or broken.
    """

    max_comparisons: int | None
    max_ratings: int | None
    max_sessions: int | None
    max_bad_images: float

    def __post_init__(self) -> None:
        for name in ("max_comparisons", "max_ratings", "max_sessions"):
            if getattr(self, name) is not None:
                check_counts(self, name, least=0, note="null takes all")
        check_not_negative(self, "max_bad_images")
        if self.max_bad_images > 1:
            raise ValueError(f"max_bad_images is a share of the images, from 0 to 1, got {self.max_bad_images}")


@dataclass(frozen=True)
class FitSettings:
    """A checked configuration.

    Attributes:
        resolved: All keys as plain data.
        phases: How to fit.
        splits: How raters are split where a dataset is not.
        limits: How much is read.
    """

    resolved: dict[str, Any]
    phases: PhasesConfig
    splits: RaterSplits
    limits: Limits

    def __post_init__(self) -> None:
        own = SimpleNamespace(**self.resolved)
        check_counts(own, "checkpoint_every", "encoder_batch_size")
        if own.encoder_dtype not in DTYPES:
            raise ValueError(f"encoder_dtype must be one of {', '.join(DTYPES)}, got {own.encoder_dtype!r}")
        if not isinstance(own.one_type, bool):
            raise ValueError(f"one_type must be true or false, got {own.one_type!r}")
        for name in ("out", "cache", "encoder"):
            if not isinstance(getattr(own, name), str):
                raise ValueError(f"{name} must be a text, got {getattr(own, name)!r}")

    @property
    def out(self) -> pathlib.Path:
        """Folder of the user model."""
        return pathlib.Path(self.resolved["out"])


def read_settings(config: DictConfig) -> FitSettings:
    """Check a composed configuration and make it typed.

    Raises:
        ValueError: If a key is unknown or missing, or a value out of range. Nothing has been read then.
    """
    resolved = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    unknown, missing = sorted(set(resolved) - set(KEYS)), sorted(set(KEYS) - set(resolved))
    if unknown or missing:
        raise ValueError(f"unknown keys {unknown}, missing ones {missing}; the keys are {', '.join(KEYS)}")
    sources = resolved["data"]
    if not isinstance(sources, list) or not all(isinstance(s, dict) and "kind" in s for s in sources):
        raise ValueError(f"data must be a list of datasets with a kind each, or data=preferences/NAME; got {sources!r}")
    for source in sources:
        if source.get(AS_SPLIT) not in (None, *SPLITS):
            raise ValueError(
                f"{AS_SPLIT} of {source.get('name', source['kind'])} must be one of {', '.join(SPLITS)}, or left out "
                f"to split its raters one by one; got {source[AS_SPLIT]!r}"
            )
    tables = resolved["scores"]
    if not isinstance(tables, dict) or not all(isinstance(path, str) for path in tables.values()):
        raise ValueError(f"scores must name a file each, as in +scores.pickscore=pickscore.npy; got {tables!r}")
    if taken := sorted(set(tables) & {*OWN_ROWS, CLIP_SCORE}):
        raise ValueError(
            f"scores cannot be called {taken[0]!r}, which is a row of the card already; name them otherwise"
        )
    find_device(resolved["device"])
    phases, splits = (_made(name, resolved[name]) for name in ("user_model", "splits"))
    names = [field.name for field in dataclasses.fields(Limits)]
    if not isinstance(resolved["limits"], dict) or set(resolved["limits"]) != set(names):
        raise ValueError(f"limits must be {', '.join(names)}, got {resolved['limits']}")
    return FitSettings(resolved, phases, splits, Limits(**resolved["limits"]))


def _made(name: str, part: Any) -> Any:
    """Make a part of the configuration, and say what is wrong with it without Hydra's own words around it."""
    try:
        return instantiate(part)
    except InstantiationException as error:
        _, _, within = str(error).partition("full_key: ")
        raise ValueError(f"{'.'.join(filter(None, (name, within)))}: {error.__cause__ or error}") from error


_OTHER_FOLDERS = ("--config-dir", "-cd", "--config-path", "-cp", "hydra.searchpath", "+hydra.searchpath")


def require_named_data(arguments: Sequence[str]) -> None:
    """Look for the configuration that ``data=`` names; Hydra would answer with those of conversations for agents.

    Configurations of other folders (``--config-dir``, ``hydra.searchpath``) are left to Hydra.

    Raises:
        ValueError: If there is none, with those that there are.
    """
    folder = CONFIG_FOLDER / "data" / "preferences"
    if any(argument.startswith(_OTHER_FOLDERS) for argument in arguments):
        return
    named = (argument.removeprefix("data=") for argument in arguments if argument.startswith("data="))
    for name in (part for value in named if not value.startswith("[") for part in value.split(",")):
        place = pathlib.PurePosixPath(name)
        if str(place.parent) != "preferences" or not (folder / f"{place.name}.yaml").is_file():
            known = ", ".join(f"preferences/{path.stem}" for path in sorted(folder.glob("*.yaml")))
            raise ValueError(f"data must be one of {known}, or a list of datasets; got {name!r}")
