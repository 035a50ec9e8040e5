"""The yardstick that knows the user and plans more than one turn ahead, by rollouts with the candidate generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.slate_search import exchanged_slate, slate_extension
from agents.slate_selection import exact_choice_slate, top_slate
from benchmarks.reference import ReferenceAgent, slate_size_of
from pasta_gym import seeding
from pasta_gym.envs.rewards import REWARDS
from pasta_gym.softmax import softmax_mean
from pasta_gym.types import NOT_YET, CandidateGenerator, FloatArray, History, IntArray, UInt64Array

_PROPOSE, _IMAGINE, _SHOW, _CHOOSE = 0x10CA, 0x10CB, 0x10CC, 0x10CD  # salts of what happens in a rollout
_ROLLOUTS_AT_ONCE = 300  # keeps the pictures of one turn within the processor's caches


class ClairvoyantLookahead(ReferenceAgent):
    """Knows the user's type and also values where the conversation goes from a candidate, if it is chosen.

    From each of the ``n_followed`` candidates that the user likes best now, ``n_rollouts`` conversations of up to
    ``n_turns`` more turns are imagined: the generator proposes from what was chosen last, the myopic clairvoyant shows
    a slate, the user chooses. The slate shown now is the one with the largest expected value of what is chosen, by
    enumeration. That value is what the reward pays: with ``"dense"`` the utility now plus those of the imagined turns,
    with ``"sparse"`` the utility at the last imagined turn alone. At the conversation's last turn the agent is the
    myopic clairvoyant.

    Where it is approximate:

    - A rollout that ends before the conversation does says nothing of what comes later. With sparse reward its last
      turn stands in for the conversation's last, with dense reward later turns count as the same from everywhere.
    - Candidates that are not followed are taken to lead where a straight line through those that are says, value
      against utility now.
    - Rollouts are few. All candidates are followed with the same luck, so that their differences are less noisy than
      their values.
    - The myopic clairvoyant of a rollout imagines one column of ``n_images`` pictures for each candidate, fewer than
      the reference agent of that name.
    - The generator is told the initial prompt, the prompt chosen last and the turn, not earlier slates, which the mini
      world's does not read.

    Args:
        world: Whose surrogate draws the imagined pictures and whose generator proposes.
        n_turns: Most turns of a rollout.
        n_rollouts: Rollouts from each candidate that is followed.
        n_followed: Candidates that are followed, at least 2.
        n_images: Pictures that a rollout's slates are chosen on; the user is shown as many as in the environment.
        reward: ``"sparse"`` or ``"dense"``, as the environment's.
        split: As the environment's; it decides what the generator may propose.
        **settings: As for :class:`ReferenceAgent`; ``one_per_category`` holds in rollouts too.

    Raises:
        ValueError: If a number is too small or the reward unknown.
    """

    name = "clairvoyant_lookahead"
    n_samples = 8

    def __init__(
        self,
        *,
        world: Any,
        n_turns: int = 1,
        n_rollouts: int = 4,
        n_followed: int = 10,
        n_images: int = 1,
        reward: str = "sparse",
        split: str = "test",
        **settings: Any,
    ) -> None:
        super().__init__(world=world, **settings)
        least = {"n_turns": 1, "n_rollouts": 1, "n_followed": 2, "n_images": 1}
        given = {"n_turns": n_turns, "n_rollouts": n_rollouts, "n_followed": n_followed, "n_images": n_images}
        for setting, value in given.items():
            if value < least[setting]:
                raise ValueError(f"{setting} must be {least[setting]} or more, got {value}")
        if reward not in REWARDS:
            raise ValueError(f"reward must be one of {REWARDS}, got {reward!r}")
        self.n_turns, self.n_rollouts, self.n_followed, self.n_images = n_turns, n_rollouts, n_followed, n_images
        self.reward, self.split = reward, split
        self._world = world
        self._generators: dict[tuple[int, int], CandidateGenerator] = {}

    def _plan(self, observations: dict[str, NDArray[Any]], seeds: UInt64Array) -> IntArray:
        utilities = self._utilities_to_type(observations, seeds, observations["user_type"])  # (B, S, C)
        now = utilities.mean(axis=1)
        turns_to_come = observations["slate_prompts"].shape[1] - 1 - np.asarray(observations["turn"])
        depth = np.minimum(turns_to_come, self.n_turns)
        followed = np.argsort(-now, axis=1, kind="stable")[:, : self.n_followed]  # (B, F)
        futures = self._futures(observations, seeds, followed, depth)  # (B, F, n_turns)
        if self.reward == "dense":
            later = futures.sum(axis=2)
        else:
            later = np.take_along_axis(futures, np.maximum(depth - 1, 0)[:, None, None], axis=2)[..., 0]
        later = continued_line(now, followed, later)[:, None]
        pays_now = (self.reward == "dense") | (depth == 0)
        values = pays_now[:, None, None] * utilities + (depth > 0)[:, None, None] * later
        return self._best_for_type(observations, utilities, values)

    def _futures(
        self, observations: dict[str, NDArray[Any]], seeds: UInt64Array, followed: IntArray, depth: IntArray
    ) -> FloatArray:
        """Expected chosen utility at each turn of the rollouts from candidates ``(B, F)``, ``(B, F, n_turns)``."""
        n_rows, n_followed = followed.shape
        rollouts = np.arange(n_rows * n_followed * self.n_rollouts)
        rows = rollouts // (n_followed * self.n_rollouts)
        utilities = np.zeros((len(rollouts), self.n_turns))
        features = self._user_model.prompt_features(observations["initial_prompt"])
        generator = self._generator(observations["categories"])
        prompts = np.take_along_axis(observations["prompt_ids"], followed, axis=1)
        chosen = np.repeat(prompts.reshape(-1), self.n_rollouts)
        # The same luck from every candidate.
        keys = seeding.mix(seeds[rows], rollouts % self.n_rollouts)
        for ahead in range(self.n_turns):
            going_on = np.flatnonzero(depth[rows] > ahead)
            for part in np.array_split(going_on, max(1, -(-len(going_on) // _ROLLOUTS_AT_ONCE))):
                if len(part):
                    at = rows[part]
                    history = self._history(observations, at, chosen[part], ahead, keys[part])
                    utilities[part, ahead], chosen[part] = self._imagined_turn(
                        generator,
                        history,
                        observations["user_type"][at],
                        features[at],
                        slate_size_of(observations),
                        observations["initial_images"].shape[1],
                        seeding.mix(keys[part], ahead),
                    )
        of_rollouts = utilities.reshape(n_rows, n_followed, self.n_rollouts, self.n_turns)
        return np.asarray(of_rollouts.mean(axis=2))

    def _history(
        self, observations: dict[str, NDArray[Any]], rows: IntArray, chosen: IntArray, ahead: int, keys: UInt64Array
    ) -> History:
        """What the generator is told of conversations ``rows`` when ``chosen`` was picked ``ahead`` turns from now."""
        horizon, slate_size = observations["slate_prompts"].shape[1:3]
        return History(
            initial_prompts=observations["initial_prompt_id"][rows],
            slates=np.full((len(rows), horizon, slate_size), NOT_YET, dtype=np.int64),
            choices=np.full((len(rows), horizon), NOT_YET, dtype=np.int64),
            chosen_prompts=chosen,
            turns=observations["turn"][rows] + 1 + ahead,
            keys=seeding.mix(keys, ahead, _PROPOSE),
            horizon=horizon,
        )

    def _imagined_turn(
        self,
        generator: CandidateGenerator,
        history: History,
        user_types: IntArray,
        features: FloatArray,
        slate_size: int,
        n_shown: int,
        keys: UInt64Array,
    ) -> tuple[FloatArray, IntArray]:
        """Play one turn of ``N`` rollouts.

        Returns:
            Expected utility of the chosen column ``(N,)``, and the prompt that was chosen ``(N,)``.
        """
        ids, categories = generator.propose(history)
        n_candidates = ids.shape[1]
        imagined = self._pictures(ids, seeding.mix(keys[:, None], np.arange(n_candidates), _IMAGINE), self.n_images)
        expected = np.asarray(self._user_model.utilities(user_types, features, imagined), dtype=np.float64)
        slates = self._myopic_slates(expected, categories if self.one_per_category else None, slate_size)
        prompts = np.take_along_axis(ids, slates, axis=1)
        # The user is shown other pictures than those the slate was chosen on: else vague prompts, whose pictures
        # differ most, would look better than they are.
        shown = self._pictures(prompts, seeding.mix(keys[:, None], slates, _SHOW), n_shown)
        utilities = np.asarray(self._user_model.utilities(user_types, features, shown), dtype=np.float64)
        logits = np.asarray(self._user_model.choice_logits(utilities), dtype=np.float64)
        column = (logits + seeding.gumbels(seeding.mix(keys[:, None], slates, _CHOOSE))).argmax(axis=1)
        chosen = np.take_along_axis(prompts, column[:, None], axis=1)[:, 0]
        return softmax_mean(utilities, logits, axis=1), chosen

    def _pictures(self, ids: IntArray, keys: UInt64Array, n_images: int) -> FloatArray:
        """Draw ``n_images`` of each prompt ``(N, C)``, ``(N, C, n_images, d)``."""
        image_keys = seeding.mix(keys.reshape(-1, 1), np.arange(n_images))
        pictures: FloatArray = self._images.generate(ids.reshape(-1), image_keys).embeddings
        return pictures.reshape(*ids.shape, n_images, -1)

    def _myopic_slates(self, utilities: FloatArray, categories: IntArray | None, slate_size: int) -> IntArray:
        """The best slates ``(N, L)`` of known utilities ``(N, C)``; by exchanges where the slate moves tau."""
        if self._has_constant_temperature:
            logits = np.asarray(self._user_model.choice_logits(utilities), dtype=np.float64)
            return exact_choice_slate(utilities, logits, categories, slate_size)
        values = utilities[..., None]
        extend = slate_extension(values, values, self._user_model.choice_logits, np.ones((len(utilities), 1)))
        start = top_slate(utilities, categories, slate_size)
        return exchanged_slate(start, extend, categories, utilities.shape[1])

    def _generator(self, categories: IntArray) -> CandidateGenerator:
        """The world's generator for candidates like these, made on first use."""
        sizes = (categories.shape[1], int(categories.max()) + 1)
        if sizes not in self._generators:
            self._generators[sizes] = self._world.candidate_generator(self.split, *sizes)
        return self._generators[sizes]


def continued_line(now: FloatArray, followed: IntArray, later: FloatArray) -> FloatArray:
    """Give every candidate a later value: its own if it was followed, else that of a least-squares line.

    Args:
        now: ``(B, C)`` utilities of all candidates.
        followed: ``(B, F)`` places of those that were followed.
        later: ``(B, F)`` their later values.

    Returns:
        ``(B, C)``.
    """
    x = np.take_along_axis(now, followed, axis=1)
    centred = x - x.mean(axis=1, keepdims=True)
    spread = np.maximum((centred**2).sum(axis=1, keepdims=True), 1e-12)
    slope = (centred * later).sum(axis=1, keepdims=True) / spread
    values = np.asarray(later.mean(axis=1, keepdims=True) + slope * (now - x.mean(axis=1, keepdims=True)))
    np.put_along_axis(values, followed, later, axis=1)
    return values
