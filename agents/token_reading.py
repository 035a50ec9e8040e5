"""Values of many candidates after one history: read once and kept, or read again for each.

``cached_values`` reads the history, keeps its keys and values, and reads all candidates beside each other on top of
them. ``plain_values`` reads [h, p] from the start for every candidate. They give the same numbers up to rounding, which
is coarse in bfloat16; the second costs the history once a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.token_model import ValueModel
from agents.token_tree import PaddingSide, Segment, token_tree
from pasta_gym.torchvision_ops import ensure_importable

Tokens = Sequence[int]


@dataclass(frozen=True)
class Reading:
    """Values and what they cost.

    Attributes:
        values: ``(B, C)`` f(h, p).
        n_tokens: Tokens that went through the network, padding left out.
    """

    values: Tensor
    n_tokens: int


Read = Callable[[ValueModel, Sequence[Tokens], Sequence[Sequence[Tokens]]], Reading]


@torch.no_grad()
def cached_values(
    model: ValueModel,
    histories: Sequence[Tokens],
    candidates: Sequence[Sequence[Tokens]],
    *,
    padding_side: PaddingSide = "right",
) -> Reading:
    """Read each history once and its candidates on top of it.

    Args:
        model: The value function.
        histories: Token ids of h, for each of B conversations.
        candidates: Token ids of each candidate, C of them for every conversation.
        padding_side: Where shorter rows are filled up; it changes no value but by rounding.
    """
    ensure_importable()
    from transformers import DynamicCache

    past = token_tree([[Segment(history)] for history in histories], padding_side=padding_side)
    branches = token_tree(
        [
            [Segment(tokens, branch=i + 1, fork=len(history)) for i, tokens in enumerate(prompts)]
            for history, prompts in zip(histories, candidates, strict=True)
        ],
        padding_side=padding_side,
    )
    # Without the model's configuration every layer keeps the whole past, which sliding windows would cut.
    cache = DynamicCache()
    model(past, cache=cache)
    values = model(branches, past=past, cache=cache)[..., 0]
    lengths = torch.tensor([[len(tokens) for tokens in prompts] for prompts in candidates])
    ends = (branches.starts + lengths - 1).to(values.device)
    return Reading(values.gather(1, ends), past.n_tokens + branches.n_tokens)


@torch.no_grad()
def plain_values(
    model: ValueModel,
    histories: Sequence[Tokens],
    candidates: Sequence[Sequence[Tokens]],
    *,
    padding_side: PaddingSide = "right",
) -> Reading:
    """Read every [h, p] as a sequence of its own; arguments as for :func:`cached_values`."""
    values, n_tokens = [], 0
    for history, prompts in zip(histories, candidates, strict=True):
        sequences = [[*history, *tokens] for tokens in prompts]
        tree = token_tree([[Segment(tokens)] for tokens in sequences], padding_side=padding_side)
        read = model(tree)[..., 0]
        ends = tree.starts[:, 0] + torch.tensor([len(tokens) - 1 for tokens in sequences])
        values.append(read.gather(1, ends[:, None].to(read.device))[:, 0])
        n_tokens += tree.n_tokens
    return Reading(torch.stack(values), n_tokens)


@torch.no_grad()
def check_reading(model: ValueModel) -> None:
    """Check that a model reads token trees as it reads plain sequences, on a few made-up tokens.

    Layers that carry a state from token to token, or that attend by rules of their own, cannot be told to leave tokens
    out, and would give wrong values without a word.

    Raises:
        ValueError: If its own logits of plain sequences are not the values of the tree.
    """
    size = model.language_model.get_output_embeddings().weight.shape[0]
    ids = [(7 * i + 3) % size for i in range(12)]
    histories, candidates = [ids[:5], ids[5:8]], [[ids[8:10], ids[9:12]], [ids[:3], ids[2:3]]]
    kind = type(model.language_model).__name__
    needs = (
        "it must be a causal model with plain softmax attention, whose value is the logit that its output layer gives"
    )
    try:
        found = cached_values(model, histories, candidates).values.float().cpu()
    except (RuntimeError, TypeError, IndexError) as error:  # what models do with masks and caches they do not know
        raise ValueError(f"{kind} cannot read candidates that share a history ({error}); {needs}") from error
    expected = torch.stack(
        [
            torch.stack([_own_logit(model, [*history, *tokens]) for tokens in prompts])
            for history, prompts in zip(histories, candidates, strict=True)
        ]
    )
    tolerance = 1e-3 if model.precision == "float32" else 5e-2
    if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
        difference = (found - expected).abs().max()
        raise ValueError(f"{kind} gives other values when candidates share a history ({difference:.2g} off); {needs}")


def _own_logit(model: ValueModel, tokens: Tokens) -> Tensor:
    """The designated logit as the language model itself computes it, with no mask or cache of ours."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.precision == "bfloat16"):
        output = model.language_model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False)
    value: Tensor = output.logits[0, -1, model.value_tokens[0]].float().cpu() + model.offset.cpu()
    return value
