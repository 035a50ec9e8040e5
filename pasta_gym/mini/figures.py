"""Prints what the mini world's shipped weights can do: ``python -m pasta_gym.mini.figures``.

Every figure comes from weights, paintings and prompts at fixed seeds. The judge reads pictures in all of them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.mini import clip, grammar, painter, reader, sdxl, unsaid
from pasta_gym.mini.training_data import PaintedSet, to_unit

SEED = 20_000


def held_out_paintings(n: int, seed: int = SEED) -> PaintedSet:
    """Paint ``n`` fully filled prompts that training never drew: half of them with a held-out triple."""
    rng = np.random.default_rng(seed)
    shown = np.concatenate([unseen_values(n // 2, rng, set_probability=1.0), seen_values(n - n // 2, rng, 1.0)])
    return PaintedSet(shown, shown, painter.paint_many(shown, rng))


def unseen_values(n: int, rng: np.random.Generator, set_probability: float = 0.6) -> NDArray[np.int64]:
    """Draw ``(n, 6)`` prompts that hold a held-out (subject, style, setting) triple."""
    rows: list[NDArray[np.int64]] = []
    while sum(map(len, rows)) < n:
        values = np.stack([rng.integers(1, c, size=4 * n) for c in grammar.CARDINALITIES], axis=1)
        keep = rng.random(values.shape) < set_probability
        keep[:, [grammar.SUBJECT, grammar.STYLE, grammar.SETTING]] = True
        values = np.where(keep, values, 0)
        rows.append(values[grammar.is_held_out(values)])
    result: NDArray[np.int64] = np.concatenate(rows)[:n]
    return result


def seen_values(n: int, rng: np.random.Generator, set_probability: float = 0.6) -> NDArray[np.int64]:
    """Draw ``(n, 6)`` prompts as in training, a subject always said."""
    values = grammar.sample_values(2 * n, rng, set_probability=set_probability)
    result: NDArray[np.int64] = values[values[:, grammar.SUBJECT] > 0][:n]
    return result


def accuracy(read: NDArray[np.int64], wanted: NDArray[np.int64]) -> dict[str, float]:
    """Share of set slots read right, by slot and in the mean over slots.

    Args:
        read: ``(n, 6)`` values read from pictures.
        wanted: ``(n, 6)`` values asked for, 0 where the prompt said nothing.
    """
    result = {
        name: float((read[:, s] == wanted[:, s])[wanted[:, s] > 0].mean()) for s, name in enumerate(grammar.SLOT_NAMES)
    }
    return {**result, "mean": float(np.mean(list(result.values())))}


def read_values(role: str, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Read the likeliest value of every slot, ``(n, 6)``."""
    probabilities = reader.read_images(reader.load_reader(role), images)
    return np.stack([p.argmax(axis=1) + 1 for p in probabilities], axis=1)


def generate(values: NDArray[np.int64], seed: int, batch_size: int = 64) -> tuple[NDArray[np.uint8], float]:
    """Paint one picture a prompt with the diffusion pipeline; returns them and the pictures per second."""
    pipeline = sdxl.load_pipeline()
    rng = np.random.default_rng(seed)
    texts = grammar.prompt_texts(grammar.prompt_ids(values, rng.integers(0, grammar.N_PHRASINGS, len(values))))
    images: list[NDArray[np.float32]] = []
    began = time.perf_counter()
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed * 1_000_000 + start + i) for i in range(len(batch))]
        images.append(
            pipeline(
                batch,
                num_inference_steps=sdxl.DEFAULT_STEPS,
                guidance_scale=sdxl.DEFAULT_GUIDANCE,
                generator=generators,
                output_type="np",
                height=sdxl.IMAGE_SIZE,
                width=sdxl.IMAGE_SIZE,
            ).images
        )
    seconds = time.perf_counter() - began
    return (np.concatenate(images) * 255).round().astype(np.uint8), len(texts) / seconds


def figures(n: int) -> dict[str, Any]:
    """Compute all figures on ``n`` pictures each."""
    rng = np.random.default_rng(SEED + 1)
    result: dict[str, Any] = {"n": n}
    paintings = held_out_paintings(n)
    for role in reader.ROLES:
        result[f"reader ({role}), held-out paintings"] = accuracy(read_values(role, paintings.images), paintings.shown)
    result["mini CLIP zero-shot, held-out paintings"] = accuracy(
        clip.zero_shot(clip.load_clip(), paintings.images), paintings.shown
    )
    vae = sdxl.load_pipeline().vae
    with torch.inference_mode():
        decoded = []
        for start in range(0, n, 100):
            x = torch.from_numpy(to_unit(paintings.images[start : start + 100]))
            decoded.append(vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1))
    rebuilt = ((torch.cat(decoded).permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    result["autoencoder, held-out paintings"] = accuracy(read_values("judge", rebuilt), paintings.shown)
    agree = []
    for name, values in (("unseen triples", unseen_values(n, rng)), ("seen triples", seen_values(n, rng))):
        images, speed = generate(values, seed=SEED + 2)
        judged = read_values("judge", images)
        result[f"mini SDXL, {name}"] = accuracy(judged, values)
        agree.append((judged == read_values("eye", images)).mean(axis=0))
        result["images per second"] = speed
    agreement = dict(zip(grammar.SLOT_NAMES, np.mean(agree, axis=0).tolist(), strict=True))
    result["readers agree on generated pictures"] = {**agreement, "mean": float(np.mean(list(agreement.values())))}
    return result


def table(result: dict[str, Any]) -> str:
    """Format the figures as a Markdown table."""
    columns = [*grammar.SLOT_NAMES, "mean"]
    lines = [f"| share read right ({result['n']} pictures) | " + " | ".join(columns) + " |", "|---" * 8 + "|"]
    for name, row in result.items():
        if isinstance(row, dict):
            lines.append(f"| {name} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |")
    lines.append("")
    lines.append(
        f"Images per second of the mini SDXL on {torch.get_num_threads()} threads: {result['images per second']:.1f}"
    )
    return "\n".join(lines)


def contact_sheet(rows: int = 8, columns: int = 8, seed: int = SEED + 3) -> NDArray[np.uint8]:
    """Painted pictures (odd rows) above generated ones of the same prompt (even rows), ``(h, w, 3)``."""
    rng = np.random.default_rng(seed)
    n = rows // 2 * columns
    values = np.concatenate([unseen_values(n // 2, rng, 0.9), seen_values(n - n // 2, rng, 0.9)])
    painted = painter.paint_many(unsaid.fill_unset(values, rng), rng)
    generated, _ = generate(values, seed)
    lines = []
    for start in range(0, n, columns):
        lines += [np.concatenate(list(part[start : start + columns]), axis=1) for part in (painted, generated)]
    sheet: NDArray[np.uint8] = np.concatenate(lines)
    return sheet


@errors_in_one_line()
def main() -> None:
    """Print the figures, and write them and the contact sheet if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="pictures per figure")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    parser.add_argument("--sheet", type=pathlib.Path, help="also write a contact sheet (PNG) here")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = figures(arguments.n)
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
        print(f"wrote {arguments.json}")
    if arguments.sheet:
        sheet = Image.fromarray(contact_sheet())
        sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(arguments.sheet)
        print(f"wrote {arguments.sheet}: painted rows above the rows generated from the same prompts")


if __name__ == "__main__":
    main()
