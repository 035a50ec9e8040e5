"""Registers the environment ids with Gymnasium."""

from __future__ import annotations

import gymnasium

ENV_ID = "PastaT2I-v0"


def register() -> None:
    """Register ``PastaT2I-v0``; a second call changes nothing."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            id=ENV_ID,
            entry_point="pasta_gym.envs:PastaEnv",
            vector_entry_point="pasta_gym.envs:PastaVectorEnv",
        )
