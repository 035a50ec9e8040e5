"""Imports that all jobs of a grid share: done once, in the process that they are forked from."""

import torch._dynamo  # torch imports it with the first optimiser

import agents.iql
import agents.slateq
import benchmarks.report
import benchmarks.run
from pasta_gym.torchvision_ops import ensure_importable

ensure_importable()
import diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl  # noqa: E402
import open_clip  # noqa: E402

__all__ = ["agents", "benchmarks", "diffusers", "open_clip", "torch"]
