"""Prints every figure of the mini world from its shipped weights: ``python -m benchmarks.world_figures``.

Reader, CLIP, autoencoder and diffusion on held-out pictures; raters and user model on held-out raters; the
surrogate's fidelity. With ``--write`` the figures and pictures go into ``docs/``, and each part's own into
its card.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import torch
from PIL import Image

from benchmarks import surrogate_fidelity
from benchmarks.pages import REPOSITORY, fill_block, printed_by
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.mini import figures, weights
from pasta_gym.user_model import figures as user_figures

DATA = REPOSITORY / "data" / "labels_world_0"


def write_cards(record: dict[str, Any], shipped: pathlib.Path) -> None:
    """Write each part's figures into its card.

    Args:
        record: What ``docs/figures/mini_world.json`` holds.
        shipped: Folder of the mini world's weights.
    """
    pictures, users = record["pictures"], record["raters_and_user_model"]

    def of(word: str) -> dict[str, Any]:
        return {name: found for name, found in pictures.items() if word in name}

    surrogate = {name: found for name, found in record["surrogate"].items() if not isinstance(found, int)}
    for folder, own in (
        ("reader_eye", of("(eye)")),
        ("reader_judge", of("(judge)") | of("readers agree")),
        ("clip", of("CLIP")),
        ("sdxl", of("SDXL") | of("autoencoder") | of("images per second")),
        ("surrogate", surrogate),
    ):
        weights.add_figures(shipped / folder, own)
    held_out = {name: found for name, found in users["held_out"].items() if name != "one_type"}
    # Its metadata.json is part of the identity of datasets, so its figures stand in a card as the other parts' do.
    fitted = json.loads((shipped / "user_model" / "metadata.json").read_text())
    config = fitted["config"]
    options = f"--types {fitted['n_types']} --steps {config['steps']} --seed {config['seed']}"
    card = {
        "part": "user_model",
        "script": f"python -m pasta_gym.user_model.fit {options}",
        "training": config,
        "data": fitted["data"],
        "figures": {**users["model"], **held_out},
    }
    weights.write_card(shipped / "user_model", card)


@errors_in_one_line()
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
    write_cards(record, weights.weights_directory())
    sheet = Image.fromarray(figures.contact_sheet())
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(
        docs / "images" / "contact_sheet.png"
    )
    made = f"{printed_by('world_figures', None)}\n\n"
    picture = "\n\n![Painted rows above the rows generated from the same prompts](images/contact_sheet.png)\n"
    fill_block(docs / "mini_world.md", "figures", made + text + picture)
    print("\nwrote docs/mini_world.md, docs/figures/mini_world.json and docs/images/contact_sheet.png")


if __name__ == "__main__":
    main()
