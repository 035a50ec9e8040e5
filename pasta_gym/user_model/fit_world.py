"""Makes mini worlds of other users: their raters label the shipped pool, and a user model is fitted to the labels.

Run ``python -m pasta_gym.user_model.fit_world 3 4`` from a checkout, which has the pool. Labels take a second, a fit
two to five minutes of a core; what is there already is left alone. Everything goes into the package's cache. A checkout
brings the user models of worlds 1 and 2 along, so that scores made on several machines are of the same users.
"""

from __future__ import annotations

import argparse
import pathlib

from pasta_gym.command_line import errors_in_one_line
from pasta_gym.mini import rater_data
from pasta_gym.mini.training_data import cache_directory

POOL = pathlib.Path("data/rater_pool")
N_TYPES = 8
CHECKOUT = pathlib.Path(__file__).parents[2] / "data" / "user_models"


def labels_folder(number: int) -> pathlib.Path:
    """Name the folder of a world's labels."""
    return cache_directory() / "labels" / f"mini_world_{number}"


def model_folder(number: int, n_types: int) -> pathlib.Path:
    """Name the folder of the user model that was fitted to a world's labels with K = ``n_types``."""
    return cache_directory() / "user_models" / f"mini_world_{number}_types_{n_types}"


def find_model(number: int, n_types: int) -> pathlib.Path:
    """Name the folder of a world's user model: the cache's if it is fitted there, or nowhere; else the checkout's."""
    folder = model_folder(number, n_types)
    brought = CHECKOUT / folder.name
    return brought if is_fitted(brought) and not is_fitted(folder) else folder


def is_fitted(folder: pathlib.Path) -> bool:
    """Whether a folder holds a finished fit: its metadata are written last."""
    return (folder / "metadata.json").is_file()


def fit_world(number: int, n_types: int = N_TYPES, *, pool: pathlib.Path = POOL) -> pathlib.Path:
    """Label the pool by a world's raters and fit a user model to their labels; each is done once.

    Args:
        number: Seed of the planted users.
        n_types: K of the user model.
        pool: Pictures of sessions, as ``pasta_gym.mini.rater_data paint`` makes them.

    Returns:
        Folder of the user model.

    Raises:
        ValueError: If the pool is missing or broken, or a number is out of range.
    """
    from pasta_gym.user_model.fit import fit_folder

    if number < 0 or n_types < 1:
        raise ValueError(f"a world's number is 0 or more and it has 1 type or more, got {number} and {n_types}")
    folder, labels = find_model(number, n_types), labels_folder(number)
    if is_fitted(folder):
        print(f"{folder} is fitted already")  # noqa: T201
        return folder
    # Metadata are written last, so a killed labelling starts again.
    if not (labels / "metadata.json").is_file():
        rater_data.label(pool, labels, number)
    print(fit_folder(labels, folder, n_types=n_types, seed=number))  # noqa: T201
    return folder


@errors_in_one_line()
def main(arguments: list[str] | None = None) -> None:
    """Command line: make every named world with every number of types."""
    parser = argparse.ArgumentParser(prog="python -m pasta_gym.user_model.fit_world", description=__doc__)
    parser.add_argument("worlds", type=int, nargs="+", help="seeds of the worlds")
    parser.add_argument("--types", type=int, nargs="+", default=[N_TYPES], help="K, one fit each")
    parser.add_argument("--pool", type=pathlib.Path, default=POOL, help="folder of the pool")
    options = parser.parse_args(arguments)
    for number in options.worlds:
        for n_types in options.types:
            fit_world(number, n_types, pool=options.pool)


if __name__ == "__main__":
    main()
