"""One published scorer's number for every picture of a dataset, as a row of the card of a user model.

python -m benchmarks.score_images --scorer pickscore --folder PICKSCORE --out pickscore.npy data=preferences/pickapic
python -m benchmarks.fit_user_model data=preferences/pickapic user_model.phase2=false +scores.pickscore=pickscore.npy

The dataset is named as for the fit, with the same limits and splits, so that images have the same rows; a file beside
the scores, pickscore.npy.json, says which, and scores of other rows are refused. Pictures are
read in full: one that comes as an embedding alone, as the mini world's do, cannot be scored.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import pathlib
import shlex
from collections.abc import Sequence

import numpy as np
from hydra import compose, initialize_config_dir
from tqdm.auto import tqdm

from benchmarks.fit_settings import FitSettings, read_settings, require_named_data
from benchmarks.fit_user_model import (
    frozen_encoder,
    gather_data,
    has_sessions,
    open_source,
    picture_store,
)
from benchmarks.run import CONFIG_FOLDER
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.encoders.clip_encoder import decode
from pasta_gym.files import whole_file, write_text
from pasta_gym.types import FloatArray, IntArray
from pasta_gym.user_model.data import NO_IMAGE, PreferenceData
from pasta_gym.user_model.originals import Originals
from pasta_gym.user_model.predictors import scored_path, scored_record
from pasta_gym.user_model.scorers import SCORERS, Scorer, make_scorer

logger = logging.getLogger(__name__)
_AT_ONCE = 64


def prompts_of_images(data: PreferenceData) -> tuple[IntArray, int]:
    """Find the initial prompt that each image was judged for.

    Args:
        data: All labels.

    Returns:
        Rows of prompts ``(I,)``, -1 for images that no label is about; and how many images were judged for several
        prompts: they have the first, pairs before rankings, ratings and choices.
    """
    sessions, turns = np.nonzero(data.session_choices >= 0)
    shown = [
        (data.pair_prompts, data.pair_images),
        (data.ranking_prompts, data.rankings),
        (data.rating_prompts, data.rating_images),
        (data.session_prompts[sessions], data.session_images[sessions, turns]),
    ]
    images = np.concatenate([rows.reshape(-1) for _, rows in shown])
    prompts = np.concatenate([np.repeat(prompts, math.prod(rows.shape[1:])) for prompts, rows in shown])
    are_there = images != NO_IMAGE
    images, prompts = images[are_there], prompts[are_there]
    found = np.full(len(data.image_embeddings), -1, dtype=np.int64)
    distinct, first = np.unique(images, return_index=True)
    found[distinct] = prompts[first]
    return found, len(np.unique(images[prompts != found[images]]))


def score_pictures(scorer: Scorer, originals: Originals, prompts: IntArray, *, progress: bool = False) -> FloatArray:
    """Score pictures for their prompts.

    Args:
        scorer: The scorer.
        originals: Pictures and prompts by row.
        prompts: ``(I,)`` row of each picture's prompt, -1 to leave it out.
        progress: Show a bar.

    Returns:
        ``(I,)``, NaN where a picture was left out.

    Raises:
        ValueError: If a picture cannot be read, or a score is not finite.
    """
    table = np.full(len(prompts), np.nan)
    rows = np.flatnonzero(prompts >= 0)
    with tqdm(total=len(rows), desc=scorer.name, unit=" pictures", disable=not progress) as bar:
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            texts = [originals.prompts[row] for row in prompts[part].tolist()]
            table[part] = scorer.scores(texts, [decode(picture) for picture in originals.images(part)])
            bad = ~np.isfinite(table[part])
            if bad.any():
                row = int(part[bad][0])
                raise ValueError(
                    f"{scorer.name} gives image {row} for the prompt {originals.prompts[prompts[row]]!r} {table[row]}, "
                    "expected a finite number; are its weights broken?"
                )
            bar.update(len(part))
    return table


def score_dataset(settings: FitSettings, scorer: Scorer) -> tuple[FloatArray, str | None]:
    """Gather a dataset with its pictures and score them.

    Args:
        settings: The fit's, which name the data, its limits and splits, the frozen encoder and the cache.
        scorer: The scorer.

    Returns:
        ``(I,)``, NaN for images that no label is about; and the hash of which image is in which row.

    Raises:
        ValueError: If data are at fault or have no pictures, or a score is not finite.
    """
    originals = picture_store(settings)
    sources = [open_source(source) for source in settings.resolved["data"]]
    data = gather_data(settings, sources, frozen_encoder(settings), originals)
    if not len(originals):
        raise ValueError(f"{settings.resolved['data_name']} shows no pictures; are its limits 0, or its files empty?")
    prompts, n_repeated = prompts_of_images(data)
    if n_repeated:
        logger.warning("%d images were judged for several prompts and are scored for the first", n_repeated)
    return score_pictures(scorer, originals, prompts, progress=True), data.images_sha256


def fit_command(settings: FitSettings, overrides: Sequence[str], row: str) -> str:
    """Write the command of the fit that takes the scores; data without sessions have no phase 2."""
    alone = []
    if settings.phases.phase2 and not has_sessions(settings.resolved["data"], settings.limits.max_sessions):
        alone = [
            "user_model.phase2=false",
            *(["user_model.train_encoder=false"] if settings.phases.train_encoder else []),
        ]
    return shlex.join(["python", "-m", "benchmarks.fit_user_model", *overrides, *alone, row])


@errors_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.score_images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scorer", required=True, choices=SCORERS)
    parser.add_argument(
        "--folder", type=pathlib.Path, help="the scorer's weights; clip without one is the mini world's"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .npy file, written whole or not at all")
    parser.add_argument("overrides", nargs="*", help="as of fit_user_model: data=preferences/pickapic cache=FOLDER ...")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".npy":
        parser.error(f"--out must end in .npy, got {options.out}")
    try:
        require_named_data(options.overrides)
    except ValueError as error:
        parser.error(str(error))
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        settings = read_settings(compose("fit_user_model", options.overrides))
    scorer = make_scorer(options.scorer, options.folder)
    table, images = score_dataset(settings, scorer)
    content = io.BytesIO()
    np.save(content, table, allow_pickle=False)
    record = json.dumps({"scorer": scorer.name, **scored_record(images, content.getvalue())}, indent=2) + "\n"
    # If this is killed between the two, they do not fit each other and are refused.
    write_text(scored_path(options.out), record)
    with whole_file(options.out) as partial:
        partial.write_bytes(content.getvalue())
    kept = table[np.isfinite(table)]
    row = f"+scores.{options.scorer.replace('.', '_')}={options.out}"
    print(  # noqa: T201
        f"wrote {options.out}: {scorer.name} of {len(kept)} of {len(table)} images, mean {kept.mean():.4g}; then: "
        + fit_command(settings, options.overrides, row)
    )


if __name__ == "__main__":
    main()
