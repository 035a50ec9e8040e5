"""From raw preference data to a user model with its card, in one command.

python -m benchmarks.fit_user_model data=preferences/mini user_model=mini
python -m benchmarks.fit_user_model data=preferences/paper user_model=paper out=my_users
python -m benchmarks.fit_user_model user_model.phase1=false out=without_phase_1
python -m benchmarks.fit_user_model data=preferences/pickapic user_model.phase2=false    # no sessions: phase 1 alone
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
import sys
import time
from dataclasses import dataclass
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from benchmarks.fit_settings import AS_SPLIT, FitSettings, read_settings, require_named_data
from benchmarks.run import CONFIG_FOLDER
from benchmarks.user_model_card import CLIP_SCORE, write_card
from benchmarks.user_model_scores import held_out_scores, shown_in_scores
from pasta_gym.datasets import PreferenceDataset, open_dataset
from pasta_gym.encoders.clip_encoder import ClipEncoder, find_device
from pasta_gym.trajectories import provenance
from pasta_gym.user_model.checkpoint import phase_key
from pasta_gym.user_model.data import PreferenceData
from pasta_gym.user_model.encoder_identity import ENCODER_FOLDER, module_bytes
from pasta_gym.user_model.features import EncodedFeatures
from pasta_gym.user_model.fit import ONE_TYPE
from pasta_gym.user_model.gather import gather
from pasta_gym.user_model.originals import Originals
from pasta_gym.user_model.own_encoder import load_own_encoder
from pasta_gym.user_model.phases import PhasesConfig, fit_in_phases
from pasta_gym.user_model.predictors import (
    ModelPredictor,
    ScorePredictor,
    calibrated,
    clip_score,
    read_scores,
    table_score,
)
from pasta_gym.user_model.user_model import UserModel

logger = logging.getLogger(__name__)
_NO_PART_OF_A_FIT = ("out", "cache", "one_type", "checkpoint_every", "scores", "device")
PHASES = "phases"
PICTURES = "pictures"


def make_encoder(name: str, *, device: str = "auto", dtype: str = "float32") -> ClipEncoder:
    """Load the frozen encoder: ``mini``, a folder of open_clip's layout, or ``MODEL/TAG``.

    Args:
        name: Which.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        dtype: ``float32`` or ``bfloat16``; another one gives other embeddings, which are kept apart.

    Raises:
        ValueError: If it is not here, with how to get it; or there is no such device or precision.
    """
    if name == "mini":
        return ClipEncoder.mini(device=device, dtype=dtype)
    if pathlib.Path(name).is_dir():
        return ClipEncoder.from_files(name, device=device, dtype=dtype)
    model, _, tag = name.partition("/")
    if not tag:
        raise ValueError(
            f"encoder must be mini, a folder, or MODEL/TAG such as ViT-L-14-quickgelu/openai; got {name!r}"
        )
    return ClipEncoder.pretrained(model, tag, device=device, dtype=dtype)


def frozen_encoder(settings: FitSettings) -> ClipEncoder:
    """Load the frozen encoder of a configuration; see ``make_encoder``."""
    given = settings.resolved
    return make_encoder(given["encoder"], device=given["device"], dtype=given["encoder_dtype"])


def open_source(source: dict[str, Any]) -> PreferenceDataset:
    """Open a dataset as ``data`` of a configuration has it.

    Raises:
        ValueError: If the kind or an option is unknown, or one is missing. A ``DatasetError`` if files are missing.
    """
    return open_dataset(**{name: value for name, value in source.items() if name != AS_SPLIT})


def has_sessions(sources: list[dict[str, Any]], max_sessions: int | None) -> bool:
    """Look for a first session in datasets, before their pictures are embedded and EM runs.

    Args:
        sources: Kind and options of each dataset.
        max_sessions: Most sessions that will be taken of each; None means all.
    """
    # Datasets of their own: what is read here is not to be counted in the reports.
    return max_sessions != 0 and any(next(open_source(source).sessions(), None) for source in sources)


def require_sessions(sources: list[dict[str, Any]], max_sessions: int | None) -> None:
    """Refuse datasets without sessions, see ``has_sessions``.

    Raises:
        ValueError: If there is none in any.
    """
    if has_sessions(sources, max_sessions):
        return
    alone = (
        "or give user_model.phase2=false, which fits scores and types and leaves the choice temperature as configured"
    )
    if max_sessions == 0:
        raise ValueError(f"limits.max_sessions is 0, and phase 2 is fitted on sessions; take some, {alone}")
    kinds = ", ".join(source["kind"] for source in sources)
    raise ValueError(
        f"there are no sessions in {kinds}, and phase 2 and the choice temperature are fitted on them; add a dataset "
        "that has some: data=preferences/paper fits Pick-a-Pic, HPD v2 and SAC together with PASTA's sessions, and a "
        f"file of your own in conf/data/preferences/ may list any others; {alone}"
    )


def run(settings: FitSettings) -> pathlib.Path:
    """Gather the data, fit, measure and write; goes on where an earlier call was stopped.

    Returns:
        The user model's folder.

    Raises:
        ValueError: If data, encoder or configuration are at fault, or no dataset has sessions for phase 2.
    """
    began, given, out = time.monotonic(), settings.resolved, settings.out
    if settings.phases.phase2:
        require_sessions(given["data"], settings.limits.max_sessions)
    encoder = frozen_encoder(settings)
    sources = [open_source(source) for source in given["data"]]
    originals = picture_store(settings) if settings.phases.train_encoder else None
    data = gather_data(settings, sources, encoder, originals)
    baselines = make_baselines(data, given["scores"])
    weights = str(encoder.identity["weights_sha256"])
    record: dict[str, Any] = {
        "data": {"name": given["data_name"], "sources": _described(given["data"], sources), "counts": counts(data)},
        "encoder": {"name": given["encoder"], "frozen_sha256": weights, "sha256": weights},
        "configuration": given,
        "versions": provenance.package_versions(),
        "git": provenance.git_revision(CONFIG_FOLDER.parent),
    }
    key = phase_key(data, _without_places(given), encoder.fingerprint)
    tuned = None if originals is None else Tuned(encoder, originals, given["encoder_batch_size"])
    every, device = given["checkpoint_every"], find_device(given["device"])
    fit = functools.partial(_fitted, data, tuned, key=key, record=record, every=every, device=device)
    model, scores = fit(settings.phases, out)
    _, of_one = fit(settings.phases.with_types(1), out / ONE_TYPE) if given["one_type"] else (None, None)
    others = {name: held_out_scores(baseline, data) for name, baseline in baselines.items()}
    model.metadata.update(held_out=scores, held_out_one_type=of_one, held_out_baselines=others)
    model.metadata["seconds"] = round(time.monotonic() - began, 1)
    model.save(out)
    write_card(out, model, scores, of_one, others)
    logger.info('wrote %s; read %s/card.md, then: gym.make("PastaT2I-v0", user_model="%s")', out, out, out)
    return out


def picture_store(settings: FitSettings) -> Originals:
    """Open the store of pictures beside the embeddings, for ``gather_data`` to fill."""
    return Originals(pathlib.Path(settings.resolved["cache"]) / PICTURES)


def gather_data(
    settings: FitSettings, sources: list[PreferenceDataset], encoder: ClipEncoder, originals: Originals | None
) -> PreferenceData:
    """Read the datasets of a configuration; the same configuration gives images the same rows.

    Raises:
        ValueError: If a dataset is at fault, or pictures are to be kept and one has none.
    """
    given = settings.resolved
    as_split = {
        dataset.name: source[AS_SPLIT]
        for source, dataset in zip(given["data"], sources, strict=True)
        if source.get(AS_SPLIT) is not None
    }
    return gather(
        sources,
        encoder,
        given["cache"],
        splits=settings.splits,
        as_split=as_split,
        originals=originals,
        progress=True,
        **dataclasses.asdict(settings.limits),
    )


def make_baselines(data: PreferenceData, tables: dict[str, str]) -> dict[str, ScorePredictor]:
    """Calibrate what knows no raters on the training raters: CLIP score of the frozen embeddings, and scores by file.

    Raises:
        ValueError: If a file is missing, broken, or of other images.
    """
    scores = {CLIP_SCORE: clip_score(data)}
    n_images, images = len(data.image_embeddings), data.images_sha256
    scores |= {name: table_score(read_scores(path, n_images, images)) for name, path in tables.items()}
    return {name: calibrated(score, data) for name, score in scores.items()}


def counts(data: PreferenceData) -> dict[str, int]:
    """Count the raters and labels of all splits."""
    return {
        "raters": data.n_raters,
        "pairs": len(data.pair_raters),
        "rankings": len(data.rankings),
        "ratings": len(data.ratings),
        "sessions": len(data.session_raters),
        "images": len(data.image_embeddings),
        "prompts": len(data.prompt_embeddings),
    }


@dataclass(frozen=True)
class Tuned:
    """What it takes to train an encoder.

    Attributes:
        encoder: The frozen one to start from.
        originals: Pictures and prompts by row.
        batch_size: Most pictures through the encoder at once.
    """

    encoder: ClipEncoder
    originals: Originals
    batch_size: int

    def features(self) -> EncodedFeatures:
        """Copy the encoder to train it."""
        return self.originals.features(self.encoder, self.batch_size)


def _fitted(
    data: PreferenceData,
    tuned: Tuned | None,
    config: PhasesConfig,
    out: pathlib.Path,
    *,
    key: str,
    record: dict[str, Any],
    every: int,
    device: torch.device,
) -> tuple[UserModel, dict[str, Any]]:
    """Fit and save, or read back what an earlier call of the same key saved; and predict the held-out raters."""
    features = None if tuned is None else tuned.features()

    def save(model: UserModel) -> None:
        encoder = {**record["encoder"], **model.metadata.get("encoder", {})}
        model.metadata |= {"key": key, "config": dataclasses.asdict(config), **record, "encoder": encoder}
        if tuned is not None and features is not None:
            tuned.encoder.write_with_weights(module_bytes(features.clip), out / ENCODER_FOLDER)
            model.encoder_folder = out / ENCODER_FOLDER
        model.save(out)

    model = _read_back(out, key, features)
    if model is None:
        model = fit_in_phases(
            data,
            config,
            out / PHASES,
            encoder=features,
            key=key,
            save=save,
            checkpoint_every=every,
            progress=True,
            device=device,
        )
    else:
        logger.info("%s is fitted already", out)
    seen = data if features is None else features.encoded(data, shown_in_scores(data))
    return model, held_out_scores(ModelPredictor(model, seen), seen)


def _read_back(out: pathlib.Path, key: str, features: EncodedFeatures | None) -> UserModel | None:
    """Read a user model of this key, and the weights of its encoder into ``features``; None if there is none."""
    if not (out / "metadata.json").is_file():
        return None
    try:
        saved = UserModel.load(out)
        if saved.metadata.get("key") != key:
            return None
        if features is not None:
            load_own_encoder(saved, features.clip)
    except ValueError as error:  # a kill between two files
        logger.warning("%s is fitted again: %s", out, error)
        return None
    return saved


def _described(given: list[dict[str, Any]], opened: list[PreferenceDataset]) -> list[dict[str, Any]]:
    """Each dataset's own arguments, and what was read and skipped."""
    described = []
    for source, dataset in zip(given, opened, strict=True):
        described.append({**source, "name": dataset.name, "report": str(dataset.report)})
    return described


def _without_places(given: dict[str, Any]) -> dict[str, Any]:
    """The configuration less what changes nothing about a user model: where files are put, what it is compared with."""
    return {n: value for n, value in given.items() if n not in _NO_PART_OF_A_FIT}


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="fit_user_model")
def main(config: DictConfig) -> str:
    """Fit one user model."""
    return str(run(read_settings(config)))


if __name__ == "__main__":
    try:
        require_named_data(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
    main()
