"""Image generators: prompts to pictures, or straight to the embeddings of pictures."""

from pasta_gym.images.cached import CachedImages
from pasta_gym.images.diffusion import DiffusionImages
from pasta_gym.images.image_cache import ImageCache
from pasta_gym.images.model_config import PRESETS, DiffusionModelConfig, diffusion_preset
from pasta_gym.images.surrogate import GaussianModel, SurrogateImages

__all__ = [
    "PRESETS",
    "CachedImages",
    "DiffusionImages",
    "DiffusionModelConfig",
    "GaussianModel",
    "ImageCache",
    "SurrogateImages",
    "diffusion_preset",
]
