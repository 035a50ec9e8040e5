"""Trains the parts of the mini world: ``python -m pasta_gym.mini.train PART``.

Each part resumes from its checkpoint if it was interrupted, and starts from the shipped weights with
``--continue``. The order is readers, clip, vae, text, unet, then painting (``pasta_gym.mini.rater_data``) and the
surrogate; ``sdxl`` is vae, text and unet in one go.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from typing import Any

import torch

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.mini import (
    clip,
    grammar,
    reader,
    sdxl,
    train_clip,
    train_reader,
    train_sdxl,
    train_surrogate,
    train_vae,
    weights,
)
from pasta_gym.mini.training_data import cache_directory
from pasta_gym.mini.training_loop import LoopConfig

PARTS = ("readers", "clip", "vae", "text", "unet", "sdxl", "surrogate")


def _config(default: LoopConfig, arguments: argparse.Namespace) -> LoopConfig:
    changes = {k: getattr(arguments, k) for k in ("steps", "seed") if getattr(arguments, k) is not None}
    return dataclasses.replace(default, **changes)


def _card(part: str, config: LoopConfig, **extra: Any) -> dict[str, Any]:
    return {
        "part": part,
        "script": f"python -m pasta_gym.mini.train {part}",
        "training": dataclasses.asdict(config),
        **extra,
    }


def train_readers(arguments: argparse.Namespace, runs: pathlib.Path, shipped: pathlib.Path) -> None:
    """Train and ship both readers."""
    for role in reader.ROLES:
        config = _config(train_reader.DEFAULTS[role], arguments)
        start = reader.load_reader(role) if arguments.resume_shipped else None
        trained = train_reader.train(role, runs / f"reader-{role}", config, start)
        folder = shipped / f"reader_{role}"
        weights.save_weights(trained, folder / "reader.safetensors")
        data = {"paintings": train_reader.N_PAINTINGS, "paintings_seed": 1 + reader.ROLES.index(role)}
        weights.write_card(folder, _card("readers", config, role=role, data=data))


def train_mini_clip(arguments: argparse.Namespace, runs: pathlib.Path, shipped: pathlib.Path) -> None:
    """Train and ship the mini CLIP."""
    config = _config(train_clip.DEFAULTS, arguments)
    start = clip.load_clip().model if arguments.resume_shipped else None
    model = train_clip.train(runs / "clip", config, start)
    folder = shipped / "clip"
    weights.save_weights(model, folder / "open_clip_model.safetensors")
    model_config = {"model_cfg": clip.MODEL_CONFIG, "preprocess_cfg": clip.PREPROCESS_CONFIG}
    (folder / "open_clip_config.json").write_text(json.dumps(model_config, indent=2) + "\n")
    data = {"paintings": train_clip.N_PAINTINGS, "paintings_seed": 1}
    weights.write_card(folder, _card("clip", config, data=data))


def train_mini_sdxl(arguments: argparse.Namespace, runs: pathlib.Path, shipped: pathlib.Path) -> None:
    """Train what is asked of vae, text encoders and denoiser, and ship the assembled pipeline."""
    whole = arguments.part == "sdxl"
    old = sdxl.load_pipeline() if arguments.resume_shipped or not whole else None
    parts: dict[str, Any] = (
        {"vae": old.vae, "text": (old.text_encoder, old.text_encoder_2), "unet": old.unet} if old else {}
    )
    used: dict[str, Any] = {}
    resume = arguments.resume_shipped
    if whole or arguments.part == "vae":
        config = _config(train_vae.DEFAULTS, arguments)
        parts["vae"] = train_vae.train(runs / "vae", config, parts.get("vae") if resume else None)
        used["vae"] = dataclasses.asdict(config)
    if whole or arguments.part == "text":
        config = _config(train_sdxl.TEXT_DEFAULTS, arguments)
        parts["text"] = train_sdxl.train_text(runs / "text", config, parts.get("text") if resume else None)
        used["text"] = dataclasses.asdict(config)
    if whole or arguments.part == "unet":
        config = _config(train_sdxl.UNET_DEFAULTS, arguments)
        start = parts.get("unet") if resume else None
        parts["unet"] = train_sdxl.train_unet(runs / "unet", parts["vae"], parts["text"], config, start)
        used["unet"] = dataclasses.asdict(config)
    ship_sdxl(parts, used, shipped)


def ship_sdxl(parts: dict[str, Any], training: dict[str, Any], shipped: pathlib.Path) -> None:
    """Write the pipeline in diffusers' format, in half precision, with its card.

    Args:
        parts: ``vae``, ``text`` (a pair) and ``unet``.
        training: Loop settings of the parts trained now; those of the others are kept from the old card.
        shipped: Folder of the mini world's weights.
    """
    folder = shipped / "sdxl"
    before = weights.read_card(folder)["training"] if (folder / "card.json").exists() else {}
    pipeline = sdxl.assemble(parts["vae"], parts["text"], parts["unet"])
    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    card = {
        "part": "sdxl",
        "script": "python -m pasta_gym.mini.train sdxl",
        "training": {**before, **training},
        "data": {
            "paintings": [n for n, _ in train_sdxl.PAINTED],
            "paintings_seeds": [s for _, s in train_sdxl.PAINTED],
        },
        "sampling": {"steps": sdxl.DEFAULT_STEPS, "guidance": sdxl.DEFAULT_GUIDANCE},
    }
    weights.write_card(folder, card)


def train_mini_surrogate(arguments: argparse.Namespace, runs: pathlib.Path, shipped: pathlib.Path) -> None:
    """Fit the surrogate to painted sessions and ship it.

    Raises:
        ValueError: If no painted set is given.
    """
    if arguments.pool is None:
        raise ValueError(
            "the surrogate needs --pool FOLDER; paint one with `python -m pasta_gym.mini.rater_data paint`"
        )
    ids, embeddings = train_surrogate.painted_prompts(arguments.pool)
    config = _config(train_surrogate.DEFAULTS, arguments)
    prompts = clip.load_clip().encode_texts(grammar.prompt_texts(ids))
    network = train_surrogate.train(runs / "surrogate", prompts, embeddings, config)
    folder = shipped / "surrogate"
    weights.save_weights(network, folder / "surrogate.safetensors")
    data = {"prompts": len(prompts), "images_per_prompt": embeddings.shape[1]}
    # The prompts' encoder, which need not be the one in the folder that is written to.
    fitted_to = {"clip": weights.file_hash(weights.weights_directory() / "clip" / "open_clip_model.safetensors")}
    weights.write_card(folder, _card("surrogate", config, data=data, fitted_to=fitted_to))


@errors_in_one_line()
def main() -> None:
    """Parse the command line and train one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument(
        "--runs", type=pathlib.Path, default=cache_directory() / "training", help="checkpoints and logs"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=weights.weights_directory(), help="where weights are written"
    )
    parser.add_argument("--steps", type=int, help="gradient steps, instead of the default")
    parser.add_argument("--seed", type=int, help="seed, instead of the default")
    parser.add_argument("--continue", dest="resume_shipped", action="store_true", help="start from the shipped weights")
    parser.add_argument("--pool", type=pathlib.Path, help="painted sessions, for the surrogate")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    if arguments.part == "readers":
        train_readers(arguments, arguments.runs, arguments.out)
    elif arguments.part == "clip":
        train_mini_clip(arguments, arguments.runs, arguments.out)
    elif arguments.part == "surrogate":
        train_mini_surrogate(arguments, arguments.runs, arguments.out)
    else:
        train_mini_sdxl(arguments, arguments.runs, arguments.out)


if __name__ == "__main__":
    main()
