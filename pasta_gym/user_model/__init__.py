"""Who the hidden user is: a learned mixture of user types with a utility and a choice model (paper, section 5)."""

from pasta_gym.user_model.user_model import UserModel

__all__ = ["UserModel"]
