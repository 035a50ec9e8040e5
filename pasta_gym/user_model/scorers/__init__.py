"""Published scores of an image for a prompt, as baselines of the user model: they know no raters.

Weights are read from local folders in the formats they are published in; nothing is fetched.
"""

from pasta_gym.user_model.scorers.aesthetic import AestheticV2
from pasta_gym.user_model.scorers.base import SCORERS, Scorer, make_scorer
from pasta_gym.user_model.scorers.clip_score import ClipScore
from pasta_gym.user_model.scorers.hpsv2 import HPSv2
from pasta_gym.user_model.scorers.image_reward import ImageReward
from pasta_gym.user_model.scorers.pickscore import PickScore

__all__ = ["SCORERS", "AestheticV2", "ClipScore", "HPSv2", "ImageReward", "PickScore", "Scorer", "make_scorer"]
