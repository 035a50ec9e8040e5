"""Two small networks that read every slot of a picture from its pixels.

One is the raters' eye, the other the judge in every reported figure. Neither is ever shown a generated image
in training, and neither is used by an agent or by the user model.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pasta_gym.mini import grammar, weights
from pasta_gym.mini.training_data import to_unit

N_VALUES: tuple[int, ...] = tuple(len(slot.values) for slot in grammar.SLOTS)
ROLES: tuple[str, str] = ("eye", "judge")


def _plain(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for out in (width, 2 * width, 4 * width, 4 * width):
        layers += [nn.Conv2d(channels, out, 5, stride=2, padding=2), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers)


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride=2, padding=1),
            nn.GroupNorm(4, out),
            nn.SiLU(),
            nn.Conv2d(out, out, 3, padding=1),
            nn.GroupNorm(4, out),
        )
        self.skip = nn.Conv2d(channels, out, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = nn.functional.silu(self.body(x) + self.skip(x))
        return result


class Reader(nn.Module):
    """Reads slot probabilities from pixels.

    Args:
        role: ``"eye"`` (plain convolutions with batch normalisation) or ``"judge"`` (residual blocks with
            group normalisation): two architectures, so that they do not share their mistakes.

    Raises:
        ValueError: If the role is unknown.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        if role not in ROLES:
            raise ValueError(f"role must be one of {ROLES}, got {role!r}")
        if role == "eye":
            self.trunk, features = _plain(24), 96 * 16
        else:
            self.trunk, features = (
                nn.Sequential(*(_Residual(c, o) for c, o in ((3, 24), (24, 48), (48, 96), (96, 96)))),
                96 * 16,
            )
        self.hidden = nn.Linear(features, 128)
        self.heads = nn.ModuleList(nn.Linear(128, n) for n in N_VALUES)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map images ``(n, 3, 64, 64)`` in [-1, 1] to one ``(n, n_values)`` tensor of logits a slot."""
        x = nn.functional.relu(self.hidden(self.trunk(images).flatten(1)))
        return [head(x) for head in self.heads]

    @torch.no_grad()
    def read(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the probability of each value, one ``(n, n_values)`` tensor a slot (column 0 is value 1)."""
        return [logits.float().softmax(dim=-1) for logits in self(images)]


@functools.cache
def load_reader(role: str, folder: pathlib.Path | None = None) -> Reader:
    """Load a shipped reader, or one from ``folder`` (``reader.safetensors``).

    Raises:
        ValueError: If the role is unknown or the weights are missing, broken, or not those that their card names.
    """
    reader = Reader(role)
    folder = folder or weights.weights_directory() / f"reader_{role}"
    weights.load_weights(reader, folder / "reader.safetensors")
    return reader.eval()


def read_images(reader: Reader, images: NDArray[np.uint8], batch_size: int = 500) -> list[NDArray[np.float32]]:
    """Read images ``(n, 64, 64, 3)`` uint8: one ``(n, n_values)`` array of probabilities a slot."""
    parts = [
        [p.numpy() for p in reader.read(torch.from_numpy(to_unit(images[i : i + batch_size])))]
        for i in range(0, len(images), batch_size)
    ]
    return [np.concatenate([part[s] for part in parts]) for s in range(grammar.N_SLOTS)]
