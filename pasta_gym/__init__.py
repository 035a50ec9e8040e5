"""PASTA Gym: slates of text-to-image prompts for users whose taste is hidden. Importing registers the ids."""

from pasta_gym.registration import register

__version__ = "0.1.0"
__all__ = ["__version__"]

register()
