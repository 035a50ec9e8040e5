"""Speed and memory of phase 1 by the number of user types K, as a share of the machine's matrix-product peak.

python -m benchmarks.user_model_throughput
python -m benchmarks.user_model_throughput --dim 768 --batch 2048 --types 8 64 --device cuda
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.pages import fill_block, printed_by
from pasta_gym.command_line import errors_in_one_line
from pasta_gym.user_model.em import EM, EMConfig
from pasta_gym.user_model.labels import Labels
from pasta_gym.user_model.network import ResidualHeads

FLOAT_BYTES = 4
GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """What one step of phase 1 costs.

    Attributes:
        parameters: Weights of the score model.
        flops: Floating-point operations of the products of one step: E-step forward, M-step forward and backward.
        weight_bytes: Weights, their gradients, AdamW's two moments, and the target network.
        activation_bytes: What is kept for the backward pass, and the largest intermediate result beside it.
    """

    parameters: int
    flops: int
    weight_bytes: int
    activation_bytes: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.activation_bytes


def budget(dim: int, n_types: int, images: int, prompts: int) -> Budget:
    """Count the work and memory of a step from the shapes alone.

    Args:
        dim: d.
        n_types: K.
        images: Images in the batch: two a pair.
        prompts: Distinct prompts in it.

    Returns:
        The cost. A head of d - 2d - 4d - dK has ``10 d^2 + 4 d^2 K`` weights, and a forward pass takes two operations
        a weight and row; backward takes twice as many.
    """
    head = 10 * dim * dim + 4 * dim * dim * n_types
    parameters = 2 * (head + 6 * dim + dim * n_types) + 1
    forward = 2 * head * (images + prompts)
    # Kept by type: the residual sum and the unit vector of images and prompts, and the text vector of each image.
    by_type = n_types * dim * (2 * (images + prompts) + images)
    kept = FLOAT_BYTES * (by_type + 7 * dim * (images + prompts))
    largest = FLOAT_BYTES * n_types * dim * images
    return Budget(parameters, 4 * forward, 5 * FLOAT_BYTES * parameters, kept + 2 * largest)


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Time the fastest of some calls, after one to warm up."""

    def once() -> float:
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    once()
    return min(once() for _ in range(repeats))


def matrix_peak(device: torch.device, size: int = 1024) -> float:
    """Measure the operations a second of a square float32 product."""
    a = torch.ones(size, size, device=device)
    return 2 * size**3 / seconds(lambda: a @ a, device, repeats=5)


def by_slices(heads: ResidualHeads, embeddings: torch.Tensor) -> torch.Tensor:
    """Do what the heads do in one product slice by slice, the trunk shared: ``(n, K, d)``."""
    x = embeddings / heads.scale
    hidden = heads.hidden(x)
    return torch.stack([heads.of_type(x, hidden, k) for k in range(heads.weight3.shape[0])], dim=1)


@dataclass(frozen=True)
class Measured:
    """Phase 1 at one K.

    Attributes:
        pairs_per_second: Pairs a second through a whole step.
        share: Operations a second over the measured peak of a square product.
        loop_ratio: Time of the heads slice by slice over their time in one product.
        peak_gib: Largest memory in use; of the process so far where the device is the CPU.
    """

    pairs_per_second: float
    share: float
    loop_ratio: float
    peak_gib: float


def step_config(n_types: int, batch: int) -> EMConfig:
    """Configure EM so that a step is Algorithm 1's: an E-step on the batch, one gradient step, no sorting before."""
    return EMConfig(n_types=n_types, batch_labels=batch, sorting=None, e_step_every=0)


def made_up_labels(dim: int, n: int) -> Labels:
    """Make ``n`` pairs of random embeddings, each of a rater and a prompt of its own."""
    generator, each = torch.Generator().manual_seed(0), torch.arange(n)
    nothing = torch.zeros(0, dtype=torch.int64)
    return Labels(
        prompt_embeddings=torch.randn(n, dim, generator=generator),
        image_embeddings=torch.randn(2 * n, dim, generator=generator),
        pair_raters=each,
        pair_prompts=each,
        pair_images=torch.stack([each, each + n], dim=1),
        pair_labels=torch.ones(n),
        rating_raters=nothing,
        rating_prompts=nothing,
        rating_images=nothing,
        ratings=torch.zeros(0),
        n_raters=n,
        raters=each,
    )


def measure(dim: int, n_types: int, batch: int, device: torch.device, peak: float) -> Measured:
    """Time steps of Algorithm 1 as ``em.EM`` takes them: ``batch`` pairs, each of a rater and a prompt of its own."""
    em = EM(made_up_labels(dim, batch), step_config(n_types, batch), device=device)
    images = torch.randn(2 * batch, dim, generator=torch.Generator().manual_seed(1)).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    took = seconds(em.step, device)
    with torch.no_grad():
        slices = seconds(lambda: by_slices(em.model.image_heads, images), device)
        at_once = seconds(lambda: em.model.image_heads(images), device)
    used = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    flops = budget(dim, n_types, 2 * batch, batch).flops
    return Measured(batch / took, flops / took / peak, slices / at_once, used / GIB)


@errors_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: print the measured table, and memory at the paper's size from the shapes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.user_model_throughput", description=__doc__)
    parser.add_argument("--dim", type=int, default=64, help="d")
    parser.add_argument("--batch", type=int, default=512, help="pairs in a batch")
    parser.add_argument("--types", type=int, nargs="+", default=[1, 4, 8, 16, 64], help="numbers of types K")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--page", type=pathlib.Path, help="put the tables into a page's block throughput")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    peak = matrix_peak(device)
    lines: list[str] = []

    def out(text: str) -> None:
        lines.append(text)
        sys.stdout.write(text)

    out(
        f"{device}, peak of a float32 product {peak / 1e9:.0f} GFLOP/s; d = {given.dim}, {given.batch} pairs a step\n\n"
    )
    out("| K | pairs/s | share of peak | slice by slice | memory in use | memory from shapes |\n" + "|---" * 6 + "|\n")
    for k in sorted(given.types):
        found, expected = (
            measure(given.dim, k, given.batch, device, peak),
            budget(given.dim, k, 2 * given.batch, given.batch),
        )
        out(
            f"| {k} | {found.pairs_per_second:,.0f} | {found.share:.0%} | {found.loop_ratio:.2f} x | "
            f"{found.peak_gib:.2f} GiB | {expected.bytes / GIB:.2f} GiB |\n"
        )
    out("\nFrom the shapes at d = 768, batches of 2,048 pairs of a prompt each:\n\n")
    for k in (8, 16, 64):
        cost = budget(768, k, 4096, 2048)
        out(
            f"K = {k}: {cost.parameters / 1e6:.0f} M weights, {cost.weight_bytes / GIB:.1f} GiB with gradients, AdamW "
            f"and the target, {cost.activation_bytes / GIB:.1f} GiB of activations, "
            f"{cost.bytes / GIB:.1f} GiB in all\n\n"
        )
    if given.page:
        made = printed_by("user_model_throughput", arguments)
        fill_block(given.page, "throughput", f"{made}\n\n{''.join(lines)}")


if __name__ == "__main__":
    main()
