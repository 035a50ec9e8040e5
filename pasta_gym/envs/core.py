"""B conversations side by side, as arrays: how they begin and how a turn goes.

The single and the vector environment are thin shells around this, so they cannot differ.
"""

from __future__ import annotations

import functools

import numpy as np

from pasta_gym.envs.answers import (
    TEXT_ENCODER,
    USER_MODEL,
    checked_images,
    checked_numbers,
    checked_proposal,
    checked_utilities,
)
from pasta_gym.envs.assembly import Parts
from pasta_gym.envs.rewards import REWARD_SCALE
from pasta_gym.seeding import CANDIDATES, CHOICE, EPISODE, IMAGE, PROMPT, USER, gumbels, integers, mix, uniforms
from pasta_gym.softmax import softmax
from pasta_gym.types import NOT_YET, BoolArray, FloatArray, History, ImageArray, Images, IntArray, UInt64Array

Rows = IntArray | slice


def occurrences(slates: IntArray) -> IntArray:
    """Count the earlier equal prompts of each slate entry, ``(..., L)`` to ``(..., L)``."""
    equal = slates[..., :, None] == slates[..., None, :]
    counts: IntArray = np.tril(equal, k=-1).sum(axis=-1)
    return counts


def sample_choices(logits: FloatArray, gumbel: FloatArray) -> IntArray:
    """Choose a column by the Gumbel-max rule: a draw from the softmax of ``logits (B, L)`` (equation 4)."""
    choices: IntArray = np.argmax(np.asarray(logits, dtype=np.float64) + gumbel, axis=-1)
    return choices


def sample_user_types(prior: FloatArray, uniform: FloatArray) -> IntArray:
    """Draw a user type for each number ``(B,)`` in (0, 1), with probabilities ``prior (K,)``."""
    edges = np.cumsum(np.asarray(prior, dtype=np.float64))
    types: IntArray = np.searchsorted(edges / edges[-1], uniform, side="right")
    return types


class Conversations:
    """The state of B conversations, and what changes it.

    Args:
        parts: What the environment is made of.
        n: B.
    """

    def __init__(self, parts: Parts, n: int) -> None:
        config = parts.config
        horizon, slate_size, n_images = config.horizon, config.slate_size, config.images_per_prompt
        d_text, d_image = parts.world.text_encoder.embedding_dim, parts.images.embedding_dim
        self.parts = parts
        self.n = n
        self.episode_keys: UInt64Array = np.zeros(n, dtype=np.uint64)
        self.user_types: IntArray = np.zeros(n, dtype=np.int64)
        self.turns: IntArray = np.zeros(n, dtype=np.int64)
        self.initial_prompts: IntArray = np.zeros(n, dtype=np.int64)
        self.chosen_prompts: IntArray = np.zeros(n, dtype=np.int64)
        self.candidates: IntArray = np.zeros((n, config.n_candidates), dtype=np.int64)
        self.categories: IntArray = np.zeros((n, config.n_candidates), dtype=np.int64)
        self.slates: IntArray = np.full((n, horizon, slate_size), NOT_YET, dtype=np.int64)
        self.choices: IntArray = np.full((n, horizon), NOT_YET, dtype=np.int64)
        self.utilities: FloatArray = np.zeros((n, slate_size), dtype=np.float64)
        self.initial_embeddings: FloatArray = np.zeros((n, d_text), dtype=np.float32)
        self.initial_images: FloatArray = np.zeros((n, n_images, d_image), dtype=np.float32)
        self.candidate_embeddings: FloatArray = np.zeros((n, config.n_candidates, d_text), dtype=np.float32)
        self.slate_prompts: FloatArray = np.zeros((n, horizon, slate_size, d_text), dtype=np.float32)
        self.slate_images: FloatArray = np.zeros((n, horizon, slate_size, n_images, d_image), dtype=np.float32)
        self.prompt_features: FloatArray | None = None  # (B, K, d), its width is the user model's
        self.initial_pixels: dict[int, ImageArray] = {}  # by row, (M, h, w, 3)
        self.slate_pixels: dict[int, ImageArray] = {}  # by row, of the last slate, (L, M, h, w, 3)
        # All of an episode's pictures are many megabytes: they are kept for generators that look at them alone.
        self.keeps_pixels = bool(getattr(parts.candidates, "wants_pixels", False))
        self.past_pixels: dict[int, list[ImageArray]] = {}  # by row, of every slate so far

    def begin(
        self,
        rows: IntArray,
        seeds: UInt64Array,
        episodes: IntArray,
        *,
        prompts: IntArray | None = None,
        user_types: IntArray | None = None,
    ) -> None:
        """Start new conversations: draw the user and the initial prompt, paint it, propose candidates.

        Args:
            rows: ``(n,)`` which conversations.
            seeds: ``(n,)`` their seeds.
            episodes: ``(n,)`` number of the episode under its seed.
            prompts: ``(n,)`` initial prompt ids instead of drawn ones.
            user_types: ``(n,)`` user types instead of drawn ones.

        Raises:
            ValueError: If a part answers with another shape, type or range than its protocol says. Whatever a part
                raises, these conversations are then over: there is nothing to play before they have begun.
        """
        try:
            self._begin(rows, seeds, episodes, prompts, user_types)
        except BaseException:
            self.end(rows)
            raise

    def _begin(
        self,
        rows: IntArray,
        seeds: UInt64Array,
        episodes: IntArray,
        prompts: IntArray | None,
        user_types: IntArray | None,
    ) -> None:
        parts = self.parts
        keys = mix(seeds, episodes, EPISODE)
        if user_types is None:
            user_types = sample_user_types(parts.user_model.prior, uniforms(mix(keys, USER)))
        if prompts is None:
            prompts = parts.initial_prompts[integers(mix(keys, PROMPT), len(parts.initial_prompts))]
        self.episode_keys[rows], self.user_types[rows] = keys, user_types
        self.initial_prompts[rows] = self.chosen_prompts[rows] = prompts
        self.turns[rows] = 0
        self.slates[rows] = self.choices[rows] = NOT_YET
        self.utilities[rows] = self.slate_prompts[rows] = self.slate_images[rows] = 0
        embedded = self._embedded(prompts)
        read = embedded if parts.eyes is None else parts.eyes.prompts(prompts)
        # Users who all read a prompt alike may keep it once for all types.
        sizes = (None, None) if self.prompt_features is None else self.prompt_features.shape[1:]
        shape = (len(prompts), *sizes)
        features = checked_numbers(parts.user_model.prompt_features(read), shape, USER_MODEL, "prompt features")
        if self.prompt_features is None:
            self.prompt_features = np.zeros((self.n, *features.shape[1:]), dtype=features.dtype)
        self.initial_embeddings[rows], self.prompt_features[rows] = embedded, features
        images = self._painted(prompts, self.image_keys(rows, prompts[:, None], self.turns[rows])[:, 0])
        self.initial_images[rows] = images.embeddings
        for row in rows.tolist() if self.initial_pixels or self.slate_pixels or images.pixels is not None else ():
            self.initial_pixels.pop(row, None)
            self.slate_pixels.pop(row, None)
            self.past_pixels.pop(row, None)
        if images.pixels is not None:
            self.initial_pixels.update(zip(rows.tolist(), images.pixels, strict=True))
        self._propose(rows)

    def advance(self, rows: IntArray, actions: IntArray) -> FloatArray:
        """Play one turn: paint the slates, let the users choose, propose candidates from what they chose.

        Args:
            rows: ``(n,)`` which conversations; none of them is over.
            actions: ``(n, L)`` indices into their candidates.

        Returns:
            ``(n,)`` float64 rewards: ten times the utility of the chosen column, at the last turn alone if the
            reward is sparse.

        Raises:
            ValueError: If a part answers with another shape, type or range than its protocol says. Whatever a part
                raises, the turn is then taken back as if it had not begun, and can be played again.
        """
        turns, chosen, utilities = self.turns[rows], self.chosen_prompts[rows], self.utilities[rows]  # copies
        pixels = {row: self.slate_pixels.get(row) for row in rows.tolist()} if self.slate_pixels else {}
        try:
            return self._play(rows, actions)
        except BaseException:
            self.turns[rows], self.chosen_prompts[rows], self.utilities[rows] = turns, chosen, utilities
            self.slates[rows, turns] = self.choices[rows, turns] = NOT_YET
            self.slate_prompts[rows, turns] = self.slate_images[rows, turns] = 0
            for row, turn in zip(rows.tolist(), turns.tolist(), strict=True):
                self.slate_pixels.pop(row, None)
                if (last := pixels.get(row)) is not None:
                    self.slate_pixels[row] = last
                if row in self.past_pixels:
                    del self.past_pixels[row][turn:]
            raise

    def _play(self, rows: IntArray, actions: IntArray) -> FloatArray:
        parts, config = self.parts, self.parts.config
        at = self._index(rows)
        self.turns[at] += 1
        turns = self.turns[at]
        slates = np.take_along_axis(self.candidates[at], actions, axis=1)
        images = self._painted(
            slates.reshape(-1), self.image_keys(rows, slates, turns).reshape(-1, config.images_per_prompt)
        )
        embeddings = images.embeddings.reshape(*slates.shape, *images.embeddings.shape[1:])
        seen = embeddings if parts.eyes is None else parts.eyes.images(images).reshape(*embeddings.shape[:-1], -1)
        assert self.prompt_features is not None
        utilities = checked_utilities(
            parts.user_model.utilities(self.user_types[at], self.prompt_features[at], seen), slates.shape
        )
        logits = checked_numbers(parts.user_model.choice_logits(utilities), slates.shape, USER_MODEL, "choice logits")
        luck = gumbels(
            mix(
                self.episode_keys[at][:, None],
                turns[:, None],
                parts.world.prompt_book.keys(slates),
                occurrences(slates),
                CHOICE,
            )
        )
        choices = sample_choices(logits, luck)
        picked = np.arange(len(slates))
        self.slates[rows, turns - 1] = slates
        self.choices[rows, turns - 1] = choices
        self.slate_prompts[rows, turns - 1] = np.take_along_axis(
            self.candidate_embeddings[at], actions[..., None], axis=1
        )
        self.slate_images[rows, turns - 1] = embeddings
        self.chosen_prompts[at] = slates[picked, choices]
        self.utilities[at] = utilities
        if images.pixels is not None:
            pixels = images.pixels.reshape(*slates.shape, *images.pixels.shape[1:])
            self.slate_pixels.update(zip(rows.tolist(), pixels, strict=True))
            if self.keeps_pixels:
                for row, shown in zip(rows.tolist(), pixels, strict=True):
                    self.past_pixels.setdefault(row, []).append(shown)
        self._propose(rows)
        rewards = REWARD_SCALE * np.asarray(utilities, dtype=np.float64)[picked, choices]
        paid: FloatArray = np.where((turns == config.horizon) | (config.reward == "dense"), rewards, 0.0)
        return paid

    def end(self, rows: IntArray) -> None:
        """End conversations ``(n,)`` where they are."""
        self.turns[rows] = self.parts.config.horizon

    def is_over(self) -> BoolArray:
        """Which conversations have played their last turn, ``(B,)``."""
        over: BoolArray = self.turns >= self.parts.config.horizon
        return over

    def image_keys(self, rows: IntArray, slates: IntArray, turns: IntArray) -> UInt64Array:
        """Keys of the pictures of slates ``(n, L)`` shown at turns ``(n,)``, ``(n, L, M)``."""
        return mix(
            self.episode_keys[rows][:, None, None],
            turns[:, None, None],
            self.parts.world.prompt_book.keys(slates)[..., None],
            occurrences(slates)[..., None],
            np.arange(self.parts.config.images_per_prompt),
            IMAGE,
        )

    def observations(self) -> dict[str, np.ndarray]:
        """Return what agents see of every conversation; the arrays are copies and theirs to keep."""
        return {
            "turn": self.turns.copy(),
            "initial_prompt": self.initial_embeddings.copy(),
            "initial_images": self.initial_images.copy(),
            "candidates": self.candidate_embeddings.copy(),
            "categories": self.categories.copy(),
            "slate_prompts": self.slate_prompts.copy(),
            "slate_images": self.slate_images.copy(),
            "choices": self.choices.copy(),
        }

    def info(self) -> dict[str, np.ndarray]:
        """Return prompt ids of every conversation and, if the arguments say so, the hidden state."""
        last = np.maximum(self.turns - 1, 0)
        shown = {
            "initial_prompt_id": self.initial_prompts.copy(),
            "candidate_ids": self.candidates.copy(),
            "slate_ids": self.slates[np.arange(self.n), last],
            "chosen_prompt_id": self.chosen_prompts.copy(),
        }
        if not self.parts.config.reveal:
            return shown
        logits = np.asarray(self.parts.user_model.choice_logits(self.utilities), dtype=np.float64)
        has_slate = (self.turns > 0)[:, None]
        return shown | {
            "user_type": self.user_types.copy(),
            "utilities": self.utilities.copy(),
            "choice_probabilities": np.where(has_slate, softmax(logits), 0.0),
        }

    def _index(self, rows: IntArray) -> Rows:
        """The same rows, as a slice if they are all: reading then copies nothing."""
        return slice(None) if len(rows) == self.n else rows

    def _pixels_seen(self, rows: IntArray, row: int, turn: int) -> ImageArray | None:
        """The pictures of one turn of the conversation ``rows[row]``, the initial prompt's at turn 0."""
        conversation = int(rows[row])
        if turn == 0:
            return self.initial_pixels.get(conversation)
        past = self.past_pixels.get(conversation, [])
        return past[turn - 1] if turn <= len(past) else None

    def _propose(self, rows: IntArray) -> None:
        parts, at = self.parts, self._index(rows)
        chosen, turns = self.chosen_prompts[at], self.turns[at]
        history = History(
            initial_prompts=self.initial_prompts[at],
            slates=self.slates[at],
            choices=self.choices[at],
            chosen_prompts=chosen,
            turns=turns,
            keys=mix(self.episode_keys[at], turns, parts.world.prompt_book.keys(chosen), CANDIDATES),
            horizon=parts.config.horizon,
            pixels=functools.partial(self._pixels_seen, rows) if self.keeps_pixels else None,
        )
        config = parts.config
        ids, categories = checked_proposal(
            parts.candidates.propose(history), len(rows), config.n_candidates, config.n_categories
        )
        embedded = self._embedded(ids)
        self.candidates[at], self.categories[at], self.candidate_embeddings[at] = ids, categories, embedded

    def _embedded(self, prompts: IntArray) -> FloatArray:
        """Embed prompts ``(...)`` as texts, ``(..., d)``."""
        encoder = self.parts.world.text_encoder
        shape = (*prompts.shape, encoder.embedding_dim)
        return checked_numbers(encoder.embed(prompts), shape, TEXT_ENCODER, "embeddings")

    def _painted(self, prompts: IntArray, keys: UInt64Array) -> Images:
        """Paint prompts ``(N,)`` with keys ``(N, M)``."""
        painter = self.parts.images
        n, n_images = keys.shape
        return checked_images(painter.generate(prompts, keys), n, n_images, painter.embedding_dim)
