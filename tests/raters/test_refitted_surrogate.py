"""Users of another encoder have the surrogate refused, and fitted again by the commands that the message names."""

import os
import shutil
import subprocess
import sys
import textwrap

import torch
from safetensors.torch import load_file, save_file

from pasta_gym.mini import weights

PROGRAM = """
import pathlib, sys
import gymnasium as gym, numpy as np
import pasta_gym
from benchmarks.rater_studio import diffusion_studio
from pasta_gym.mini import train
from pasta_gym.mini.rater_sessions import PoolConfig, paint_sessions
from pasta_gym.user_model.user_model import UserModel
from pasta_gym.worlds import make_world

root = sys.argv[1]

def play():
    with gym.make("PastaT2I-v0", images="surrogate", user_model=f"{root}/users") as env:
        env.reset(seed=3)
        env.step(np.array([0, 5, 10, 15]))

if sys.argv[2] == "refit":
    world = make_world("mini")
    users = UserModel.load(world.user_model)
    sha = world.image_generator("diffusion").encoder_sha256
    users.metadata["encoder"] = {"sha256": sha, "frozen_sha256": sha}
    users.save(f"{root}/users")
    try:
        play()
    except ValueError as error:
        assert "train surrogate" in str(error) and sha in str(error), error
    else:
        raise AssertionError("a surrogate of another encoder was taken")
    small = PoolConfig(train_raters=3, validation_raters=1, test_raters=1, sessions_per_rater=1, horizon=1,
                       images_per_prompt=2, batch=3, pilot_sessions=3)
    paint_sessions(diffusion_studio(), pathlib.Path(root, "pool"), small, progress=False)
    sys.argv = ["train", "surrogate", "--pool", f"{root}/pool", "--runs", f"{root}/runs", "--steps", "4"]
    train.main()
else:
    assert make_world("mini").image_generator("surrogate").encoder_sha256 == sys.argv[3]
    play()
    print("played")
"""


def test_the_surrogate_is_refused_and_then_refitted_to_another_encoder(tmp_path):
    copy = tmp_path / "weights"
    shutil.copytree(weights.weights_directory(), copy)
    clip = copy / "clip" / "open_clip_model.safetensors"
    tensors = load_file(clip)
    generator = torch.Generator().manual_seed(0)
    changed = {n: t + 0.01 * torch.randn(t.shape, generator=generator).to(t.dtype) for n, t in tensors.items()}
    save_file(changed, clip, metadata={"format": "pt"})
    weights.write_card(copy / "clip", weights.read_card(copy / "clip"))
    environment = {**os.environ, "PASTA_GYM_MINI_WEIGHTS": str(copy), "OMP_NUM_THREADS": "1"}

    def run(*words):
        call = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), *words]
        return subprocess.run(call, env=environment, capture_output=True, text=True, check=False)

    before = weights.file_hash(copy / "surrogate" / "surrogate.safetensors")
    done = run("refit")
    assert done.returncode == 0, done.stderr[-2000:]
    assert weights.file_hash(copy / "surrogate" / "surrogate.safetensors") != before
    assert weights.read_card(copy / "surrogate")["fitted_to"] == {"clip": weights.file_hash(clip)}
    played = run("play", weights.file_hash(clip))
    assert played.stdout.strip() == "played", played.stderr[-2000:]
