"""Prints every figure of the mini world from its shipped weights: ``python -m benchmarks.world_figures``.

Reader, CLIP, autoencoder and diffusion on held-out pictures; raters and user model on held-out raters; the
surrogate's fidelity. With ``--write`` the figures and pictures go into ``docs/``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib

import torch
from PIL import Image

from benchmarks import surrogate_fidelity
from benchmarks.pages import REPOSITORY, fill_block
from pasta_gym.mini import figures, weights
from pasta_gym.user_model import figures as user_figures

DATA = REPOSITORY / "data" / "labels_world_0"


def main() -> None:
    """Compute and print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="pictures per figure")
    parser.add_argument("--slates", type=int, default=60, help="slates of the surrogate's comparison")
    parser.add_argument("--data", type=pathlib.Path, default=DATA, help="the raters' labels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="also write docs/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = figures.figures(arguments.n)
    user = user_figures.all_figures(arguments.data, weights.weights_directory() / "user_model")
    fidelity = surrogate_fidelity.fidelity(n_slates=arguments.slates, repeats=8, seed=0)
    text = "\n\n".join(
        [
            "### Pictures",
            figures.table(parts),
            "### Raters and user model",
            user_figures.as_table(user),
            "### Surrogate",
            surrogate_fidelity.table(fidelity),
        ]
    )
    print(text)
    if not arguments.write:
        print("\nTo put these into docs/mini_world.md: add --write")
        return
    docs = REPOSITORY / "docs"
    (docs / "figures").mkdir(exist_ok=True)
    (docs / "images").mkdir(exist_ok=True)
    record = {"pictures": parts, "raters_and_user_model": user, "surrogate": fidelity}
    (docs / "figures" / "mini_world.json").write_text(json.dumps(record, indent=2) + "\n")
    sheet = Image.fromarray(figures.contact_sheet())
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(
        docs / "images" / "contact_sheet.png"
    )
    date = datetime.datetime.now(tz=datetime.UTC).date()
    made = f"Made by `python -m benchmarks.world_figures --write` on {date}.\n\n"
    picture = "\n\n![Painted rows above the rows generated from the same prompts](images/contact_sheet.png)\n"
    fill_block(docs / "mini_world.md", "figures", made + text + picture)
    print("\nwrote docs/mini_world.md, docs/figures/mini_world.json and docs/images/contact_sheet.png")


if __name__ == "__main__":
    main()
