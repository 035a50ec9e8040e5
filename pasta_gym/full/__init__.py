"""Worlds of full-size models: published image models, CLIP and a language model, put together by a configuration."""

from typing import TYPE_CHECKING, Any

from pasta_gym.full.config import ChatConfig, ClipConfig, FullWorldConfig, full_world_preset

if TYPE_CHECKING:
    from pasta_gym.full.initial_prompts import read_initial_prompts, split_initial_prompts

__all__ = [
    "ChatConfig",
    "ClipConfig",
    "FullWorldConfig",
    "full_world_preset",
    "read_initial_prompts",
    "split_initial_prompts",
]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the module is a command too, and Python warns of one that its package has imported.
    if name in ("read_initial_prompts", "split_initial_prompts"):
        from pasta_gym.full import initial_prompts

        return getattr(initial_prompts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
