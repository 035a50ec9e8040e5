"""Image generators: prompts to pictures, or straight to the embeddings of pictures."""

from pasta_gym.images.diffusion import DiffusionImages
from pasta_gym.images.surrogate import GaussianModel, SurrogateImages

__all__ = ["DiffusionImages", "GaussianModel", "SurrogateImages"]
