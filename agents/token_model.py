"""A language model as value function: designated logits at every token, f of [h, p] and v of h (appendix E.3)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from agents.token_tree import TokenTree, joined, visible

Precision = Literal["float32", "bfloat16"]


class ValueModel(nn.Module):
    """Reads token trees and gives the two value logits at every token.

    Only the output rows of the two logits are multiplied out: a vocabulary of 256,000 logits a token would cost more
    than the rest. Under ``bfloat16`` the network runs in mixed precision, the logits themselves in float32, as values
    differ by less than bfloat16 resolves.
    """

    offset: Tensor

    def __init__(self, language_model: Any, *, q_token: int, v_token: int, precision: Precision = "float32") -> None:
        """Wrap a causal language model of ``transformers`` with softmax attention.

        Args:
            language_model: With transformers' own choice of attention; see :mod:`agents.token_loading`.
            q_token: Token id whose logit is f, the paper's ``l_q``.
            v_token: Token id whose logit is v, ``l_v``; may be the same.
            precision: Of the network's arithmetic.

        Raises:
            ValueError: If a token id is not in the vocabulary.
        """
        super().__init__()
        head = language_model.get_output_embeddings()
        for name, token in (("q_token", q_token), ("v_token", v_token)):
            if not 0 <= token < head.weight.shape[0]:
                raise ValueError(f"{name} must be a token id in 0..{head.weight.shape[0] - 1}, got {token}")
        self.language_model = language_model
        self.precision = precision
        self.context = context_length(language_model.config)
        self.value_tokens = (q_token, v_token)
        # Values are the logits plus this constant, 0 unless training sets it to the mean return.
        self.register_buffer("offset", torch.zeros(()))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.offset.device

    def recompute_activations(self) -> None:
        """Keep few activations and compute the others twice: less memory for a third more time when training."""
        model = self.language_model
        # Later releases of transformers have another name for it and warn of the earlier one.
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable()
        else:
            model.gradient_checkpointing_enable()
        self.train()  # transformers recomputes in this mode alone; dropout is 0

    def forward(self, tree: TokenTree, past: TokenTree | None = None, cache: Any = None) -> Tensor:
        """Values at every token, ``(B, S, 2)`` float32: f in the first column, v in the second.

        Args:
            tree: What to read; any device.
            past: The tree whose keys and values are in ``cache``.
            cache: A cache of ``transformers``, which this call fills or extends; None reads without.

        Raises:
            ValueError: If a path is longer than the model's context.
        """
        longest = int(tree.positions.max()) + 1
        if longest > self.context:
            raise ValueError(
                f"a conversation has {longest} tokens, the model reads {self.context}; take a model with a longer "
                "context, fewer turns or shorter prompts"
            )
        tree = tree.to(self.device)
        keys = tree if past is None else joined(past.to(self.device), tree)
        # Added to the attention's scores: the form of a mask that all of transformers' implementations take.
        dtype = self.language_model.dtype
        mask = torch.zeros((), dtype=dtype, device=self.device).where(visible(tree, keys), torch.finfo(dtype).min)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            hidden = self.language_model.base_model(
                input_ids=tree.tokens,
                position_ids=tree.positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state
        return self._value_logits(hidden.float()) + self.offset

    def _value_logits(self, hidden: Tensor) -> Tensor:
        head, rows = self.language_model.get_output_embeddings(), list(self.value_tokens)
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = hidden @ head.weight[rows].float().T
            if getattr(head, "bias", None) is not None:
                logits = logits + head.bias[rows].float()
        cap = getattr(self.language_model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)


class TargetWeights:
    """The target network: a copy of the weights that are trained, put in place for a call.

    With LoRA that is the adapters alone, so that a large model is held once.
    """

    def __init__(self, model: ValueModel) -> None:
        """Copy the trainable weights of ``model``."""
        self._model = model
        self._weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def values(self, tree: TokenTree) -> Tensor:
        """Values ``(B, S, 2)`` under the copied weights, without gradient."""
        values: Tensor = torch.func.functional_call(self._model, self._weights, (tree,))
        return values

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """Move the copy towards the trained weights by ``rate`` in (0, 1]; 1 copies them."""
        for name, parameter in self._model.named_parameters():
            if name in self._weights:
                self._weights[name].lerp_(parameter.detach(), rate)


def context_length(config: Any) -> int:
    """Tokens that a model's every layer can look back on: the smaller of its positions and its sliding window."""
    config = config.get_text_config()
    length = int(getattr(config, "max_position_embeddings", None) or 1 << 62)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = window is not None if kinds is None else "sliding_attention" in kinds
    return min(length, int(window)) if slides and window is not None else length
