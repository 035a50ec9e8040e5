"""Settings of agents that are of the wrong type or out of range are refused by name."""

import numpy as np
import pytest

from agents.d3rlpy_agents import D3RLPyConfig
from agents.iql import IQLConfig
from agents.mixture_fit import MixtureConfig
from agents.prompt_taste import TasteConfig
from agents.sb3_ppo import PPOConfig
from agents.slateq import SlateQConfig
from agents.token_config import TokenIQLConfig
from agents.token_loading import ScratchConfig


@pytest.mark.parametrize(
    ("config_class", "setting", "message"),
    [
        (IQLConfig, {"steps": 1.5}, r"steps must be an integer of at least 1, got 1\.5"),
        (IQLConfig, {"batch_size": True}, "batch_size must be an integer of at least 1, got True"),
        (IQLConfig, {"n_layers": 0.5}, r"n_layers must be an integer of at least 0, got 0\.5"),
        (IQLConfig, {"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
        (IQLConfig, {"learning_rate": float("inf")}, "learning_rate must be a finite number above 0, got inf"),
        (IQLConfig, {"reward_scale": "0.1"}, r"reward_scale must be a finite number above 0, got '0\.1'"),
        (IQLConfig, {"mixture": 3}, "mixture must be MixtureConfig or its fields by name, got 3"),
        (SlateQConfig, {"mixture": None}, "mixture must be MixtureConfig or its fields by name, got None"),
        (SlateQConfig, {"taste": 1}, "taste must be TasteConfig or its fields by name, got 1"),
        (SlateQConfig, {"weight_decay": True}, "weight_decay must be a finite number of at least 0, got True"),
        (SlateQConfig, {"width": "128"}, "width must be an integer of at least 1, got '128'"),
        (MixtureConfig, {"restarts": 1.0}, r"restarts must be an integer of at least 1, got 1\.0"),
        (MixtureConfig, {"weight_decay": float("nan")}, "weight_decay must be a finite number of at least 0, got nan"),
        (TasteConfig, {"weight_decay": -0.5}, r"weight_decay must be at least 0, got -0\.5"),
        (D3RLPyConfig, {"steps": 2.5}, r"steps must be an integer of at least 1, got 2\.5"),
        (PPOConfig, {"n_envs": False}, "n_envs must be an integer of at least 1, got False"),
        (PPOConfig, {"environment": "mini"}, "environment must be EnvironmentConfig or its fields by name, got 'mini'"),
        (TokenIQLConfig, {"q_token": 1.5}, r"q_token must be an integer of at least 0, got 1\.5"),
        (TokenIQLConfig, {"scratch": 2}, "scratch must be ScratchConfig or its fields by name, got 2"),
        (ScratchConfig, {"width": True}, r"scratch\.width must be an integer of at least 1, got True"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_accepted(config_class, setting, message):
    with pytest.raises(ValueError, match=message):
        config_class(**setting)


def test_numbers_of_numpy_and_the_fields_of_a_stored_card_are_settings_too():
    config = IQLConfig(steps=np.int64(7), weight_decay=0, learning_rate=np.float32(0.5), mixture={"n_components": 3})
    assert (config.steps, config.mixture) == (7, MixtureConfig(n_components=3))
