"""Worlds of full-size models: published image models, CLIP and a language model, put together by a configuration."""

from pasta_gym.full.config import ChatConfig, ClipConfig, FullWorldConfig, full_world_preset
from pasta_gym.full.initial_prompts import read_initial_prompts, split_initial_prompts

__all__ = [
    "ChatConfig",
    "ClipConfig",
    "FullWorldConfig",
    "full_world_preset",
    "read_initial_prompts",
    "split_initial_prompts",
]
