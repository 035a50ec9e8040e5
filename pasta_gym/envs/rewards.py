"""When utilities are paid, and in which unit."""

from typing import Literal

Reward = Literal["sparse", "dense"]
REWARDS: tuple[str, ...] = ("sparse", "dense")
"""At the last turn alone, or at every turn."""

REWARD_SCALE = 10.0
"""Rewards are utilities in [0, 1] times this (table F.1 of the paper)."""
