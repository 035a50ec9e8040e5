"""Copies of a process that has computed with several threads."""

import os
import subprocess
import sys

import pytest

CODE = """
import gymnasium as gym, pasta_gym, torch
torch.set_num_threads(2)
torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # two threads are up
envs = gym.make_vec("PastaT2I-v0", num_envs=2, vectorization_mode="async", images="surrogate")
observation, info = envs.reset(seed=0)
envs.step(envs.action_space.sample())
envs.close()
print("done", torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork, so nothing is copied")
def test_an_async_vector_does_not_wait_for_threads_that_a_fork_has_lost():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout.strip() == "done 2", done.stderr  # the parent keeps its threads
