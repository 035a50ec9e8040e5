"""The files of a full-size world with tiny models in their real formats."""

import json
import shutil

from pasta_gym.full import ChatConfig, ClipConfig, FullWorldConfig
from pasta_gym.mini.weights import weights_directory
from tests.images.tiny_pipelines import tiny_config, write_tiny_flux

TINY_CLIP = {
    "embed_dim": 64,  # that of the shipped user model
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_tiny_clip(folder):
    import torch
    from safetensors.torch import save_file

    from pasta_gym.encoders.open_clip_models import import_open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = import_open_clip().CLIP(**json.loads(json.dumps(TINY_CLIP)))
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": {}}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")


def write_user_model(folder):
    """The shipped users; their metadata no longer says which encoder they were fitted with."""
    shutil.copytree(weights_directory() / "user_model", folder)
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata.pop("encoder", None)
    (folder / "metadata.json").write_text(json.dumps(metadata))


def write_tiny_world(root):
    """Write all files of a world and return its recipe."""
    write_tiny_flux(root / "flux")
    write_tiny_clip(root / "clip")
    write_user_model(root / "users")
    (root / "prompts.txt").write_text("".join(f"a cat number {i}\n" for i in range(60)))
    return FullWorldConfig(
        name="tiny-flux",
        image_model=tiny_config(root / "flux", max_sequence_length=16),
        chat=ChatConfig("rules"),
        clip=ClipConfig(str(root / "clip"), tag=None, device="cpu"),
        user_model=str(root / "users"),
        initial_prompts=str(root / "prompts.txt"),
        image_cache=str(root / "images"),
        reply_cache="",
    )
