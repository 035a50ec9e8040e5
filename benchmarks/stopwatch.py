"""How long a run took, over all the processes that did a part of it."""

from __future__ import annotations

import pathlib
import time

from benchmarks import runs
from pasta_gym.files import write_json


class Stopwatch:
    """Adds the seconds of this process to those of earlier ones whose work was kept.

    What a killed process did after its last :meth:`keep` is done again, so its seconds do not count twice.

    Args:
        folder: The run directory, where seconds are kept while the run is under way.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._path = folder / runs.SECONDS
        kept = runs.read_json(self._path) or {}
        self._wall, self._evaluation = float(kept.get("wall", 0.0)), float(kept.get("evaluation", 0.0))
        self._began = time.monotonic()
        self._evaluation_began: float | None = None

    @property
    def wall(self) -> float:
        """Seconds of the run."""
        return self._wall + time.monotonic() - self._began

    @property
    def evaluation(self) -> float:
        """Seconds of its evaluation."""
        if self._evaluation_began is None:
            return self._evaluation
        return self._evaluation + time.monotonic() - self._evaluation_began

    def start_evaluation(self) -> None:
        """Say that training is over."""
        self._evaluation_began = time.monotonic()

    def keep(self) -> None:
        """Write the seconds down, as a checkpoint or a batch was just kept that nobody will make again."""
        write_json(self._path, {"wall": self.wall, "evaluation": self.evaluation})
