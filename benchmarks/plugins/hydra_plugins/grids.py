"""The benchmark's sweeper, in the package where Hydra looks for sweepers; what it does is in ``benchmarks.sweep``."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GridsSweeper(Sweeper):
    """Runs every combination of one grid, as Hydra's basic sweeper does, or of several that need not be of one size.

    Args:
        params: One grid: values of each key.
        grids: Several.
    """

    def __init__(self, params: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]) -> None:
        self.grids = [*grids, *([params] if params else [])]
        self.setting_up: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.setting_up = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs of the grids as the command line changes them; SystemExit 1 if one failed."""
        from benchmarks import sweep

        if self.setting_up is None:
            raise RuntimeError("Hydra calls setup before sweep, but it did not")
        context, task, config = self.setting_up
        sweep_folder = pathlib.Path(config.hydra.sweep.dir)
        sweep_folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, sweep_folder / "multirun.yaml")

        def compose(overrides: Sequence[str]) -> DictConfig:
            return sweep.without_hydra(context.config_loader.load_sweep_config(config, list(overrides)))

        def launcher_of(recorded: Callable[[DictConfig], Any]) -> Any:
            return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=recorded, config=config)

        return sweep.run_sweep(
            jobs=sweep.jobs_of(self.grids, arguments),
            compose=compose,
            launcher_of=launcher_of,
            launcher_name=str(config.hydra.runtime.choices.get("hydra/launcher", "")),
            task=task,
            runs_folder=pathlib.Path(config.runs),
            sweep_folder=sweep_folder,
        )
