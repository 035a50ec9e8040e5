"""Synthetic people with planted tastes, who judge pictures by their pixels.

A *world* is a seed: it draws the archetypes. A rater is an archetype plus individual variation. Raters see a
picture through the eye (``pasta_gym.mini.reader``): a vector of soft probabilities, one block a slot, called a
*read*. Everything here is a function of reads, prompt values, a rater's weights and a generator, so the truth
behind every label is known and so is the ceiling of any predictor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pasta_gym.mini import grammar
from pasta_gym.softmax import softmax

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]

N_VALUES: tuple[int, ...] = tuple(len(slot.values) for slot in grammar.SLOTS)
READ_SIZE = sum(N_VALUES)
N_SUBJECTS = N_VALUES[grammar.SUBJECT]
TASTE_SIZE = READ_SIZE - N_SUBJECTS
_OFFSETS = np.concatenate([[0], np.cumsum(N_VALUES)[:-1]]).astype(np.int64)
MAX_CRITIQUE_WORDS = 12
MIN_DISTANCE = 0.8
_PROPOSALS = 1000
_ENOUGH = 30


@dataclass(frozen=True)
class RaterConfig:
    """How raters judge. The defaults keep the reward unsaturated and share little common appeal.

    Attributes:
        n_archetypes: Number of archetypes, at least 2.
        share_ratio: Each archetype's share is this ratio times the one before: unequal shares.
        taste_weight: Mean size of a like or a dislike, in logits.
        importance_spread: A slot matters to an archetype by a factor in ``1 -+ importance_spread``.
        variation: Standard deviation of a rater's weight around the archetype's, in logits, per value.
        base: Logit of a picture that shows nothing liked or disliked.
        subject_penalty: Logits lost when the subject that the prompt names is surely not there.
        intent_penalty: Logits lost for each attribute the prompt names that is surely not there.
        best_image_sharpness: A column is judged by its images with weights ``softmax(sharpness * utility)``.
        best_share: How often the best of four columns is chosen, on average: sets the temperature.
        tie: Davidson's tie parameter: two equal pictures tie with probability ``tie / (2 + tie)``.
        rating_noise: Standard deviation of a rating on the 1-10 scale before rounding.
        satisfaction_noise: Standard deviation of a satisfaction on the 1-5 scale before rounding.
        same_band: Two turns count as the same when their noisy utilities differ by less than this.
        improvement_noise: Standard deviation of the difference of utilities between two turns, as felt.
    """

    n_archetypes: int = 8
    share_ratio: float = 0.85
    taste_weight: float = 1.3
    importance_spread: float = 0.3
    variation: float = 0.3
    base: float = -2.0
    subject_penalty: float = 1.5
    intent_penalty: float = 0.4
    best_image_sharpness: float = 20.0
    best_share: float = 0.5
    tie: float = 0.3
    rating_noise: float = 0.7
    satisfaction_noise: float = 0.4
    same_band: float = 0.05
    improvement_noise: float = 0.05

    def __post_init__(self) -> None:
        if self.n_archetypes < 2:
            raise ValueError(f"n_archetypes must be at least 2, got {self.n_archetypes}; 8 is the default")
        if not 0 < self.share_ratio <= 1:
            raise ValueError(f"share_ratio must be in (0, 1], got {self.share_ratio}; 1 means equal shares")
        if not 0 <= self.importance_spread < 1:
            raise ValueError(f"importance_spread must be in [0, 1), got {self.importance_spread}")
        for name in ("taste_weight", "variation", "best_image_sharpness", "tie", "rating_noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


DEFAULT_CONFIG = RaterConfig()


@dataclass(frozen=True)
class Archetypes:
    """The kinds of people of one world.

    Attributes:
        seed: The world's seed.
        shares: ``(A,)`` how common each is; sums to 1.
        signs: ``(A, 26)`` 1 for liked, -1 for disliked, 0 for neither, over the values of the five attributes.
        weights: ``(A, 26)`` the same in logits.
    """

    seed: int
    shares: FloatArray
    signs: IntArray
    weights: FloatArray

    def describe(self, archetype: int) -> str:
        """Say in words what an archetype likes and dislikes."""
        names = [name for slot in grammar.ATTRIBUTES for name in grammar.SLOTS[slot].values]
        liked = [n for n, s in zip(names, self.signs[archetype], strict=True) if s > 0]
        disliked = [n for n, s in zip(names, self.signs[archetype], strict=True) if s < 0]
        return f"likes {', '.join(liked)}; dislikes {', '.join(disliked)}"


@dataclass(frozen=True)
class Raters:
    """A crowd: who is of which archetype, and each one's own weights.

    Attributes:
        archetypes: ``(n,)`` index of each rater's archetype.
        weights: ``(n, 26)`` each rater's weights in logits.
        temperature: Factor on utilities in choices and comparisons.
        config: How they judge.
    """

    archetypes: IntArray
    weights: FloatArray
    temperature: float
    config: RaterConfig = DEFAULT_CONFIG

    def __len__(self) -> int:
        return len(self.archetypes)


def jaccard_distances(signs: IntArray) -> FloatArray:
    """Distance of every two profiles ``(A, 26)``, counting (value, sign) elements: ``(A, A)`` in [0, 1]."""
    elements = np.concatenate([signs > 0, signs < 0], axis=1).astype(np.int64)
    both = elements @ elements.T
    size = elements.sum(axis=1)
    either = size[:, None] + size[None, :] - both
    distances: FloatArray = 1.0 - both / np.maximum(either, 1)
    return distances


def _spread_values(n_archetypes: int, n_values: int, rng: np.random.Generator) -> IntArray:
    """One value for each archetype, all values about equally often."""
    repeats = -(-n_archetypes // n_values)
    values = np.concatenate([rng.permutation(n_values) for _ in range(repeats)])[:n_archetypes]
    return rng.permutation(values)


def _propose_signs(n_archetypes: int, rng: np.random.Generator) -> IntArray:
    signs = np.zeros((n_archetypes, TASTE_SIZE), dtype=np.int64)
    rows = np.arange(n_archetypes)
    for slot in grammar.ATTRIBUTES:
        offset = _OFFSETS[slot] - N_SUBJECTS
        liked = _spread_values(n_archetypes, N_VALUES[slot], rng)
        disliked = _spread_values(n_archetypes, N_VALUES[slot], rng)
        while (clash := np.flatnonzero(liked == disliked)).size:
            pair = np.array([clash[0], rng.integers(n_archetypes)])
            disliked[pair] = disliked[pair[::-1]]
        signs[rows, offset + liked] = 1
        signs[rows, offset + disliked] = -1
    # One archetype in two is indifferent to the disliked value of one slot: 9 or 10 elements each.
    for row in rows[rng.random(n_archetypes) < 0.5]:
        signs[row, rng.choice(np.flatnonzero(signs[row] < 0))] = 0
    return signs


def draw_archetypes(seed: int, config: RaterConfig = DEFAULT_CONFIG) -> Archetypes:
    """Draw the archetypes of a world: every two at least 0.8 apart in Jaccard distance.

    Each likes one value of every attribute slot and dislikes another one of almost every slot. Liked values are
    spread over the archetypes, and of the valid proposals the one with the least common appeal is kept: what
    everybody likes leaves nothing to personalise.

    Args:
        seed: The world's seed.
        config: Number, shares and weights.

    Returns:
        The archetypes, most common first.

    Raises:
        ValueError: If so many archetypes cannot be kept apart.
    """
    rng = np.random.default_rng([seed, 0xA7C])
    shares = config.share_ratio ** np.arange(config.n_archetypes)
    shares = shares / shares.sum()
    best: IntArray | None = None
    lowest, found = np.inf, 0
    for _ in range(_PROPOSALS):
        signs = _propose_signs(config.n_archetypes, rng)
        distances = jaccard_distances(signs) + np.eye(config.n_archetypes)
        if distances.min() < MIN_DISTANCE:
            continue
        appeal = float(np.square(shares @ signs).sum())
        if appeal < lowest:
            best, lowest = signs, appeal
        found += 1
        if found == _ENOUGH:
            break
    if best is None:
        raise ValueError(
            f"no {config.n_archetypes} archetypes at least {MIN_DISTANCE} apart were found; ask for fewer (8 is safe)"
        )
    spread = config.importance_spread
    importance = rng.uniform(1 - spread, 1 + spread, size=(config.n_archetypes, len(grammar.ATTRIBUTES)))
    per_value = np.repeat(importance, N_VALUES[1:], axis=1)
    return Archetypes(seed, shares, best, config.taste_weight * best * per_value)


def draw_raters(
    archetypes: Archetypes,
    n: int,
    temperature: float,
    rng: np.random.Generator,
    *,
    config: RaterConfig = DEFAULT_CONFIG,
) -> Raters:
    """Draw ``n`` raters: an archetype each by share, and weights normal around the archetype's.

    Args:
        archetypes: The world's archetypes.
        n: How many raters.
        temperature: See ``calibrate_temperature``.
        rng: Source of randomness.
        config: Size of the individual variation.

    Returns:
        The raters.
    """
    kinds = rng.choice(len(archetypes.shares), size=n, p=archetypes.shares)
    weights = archetypes.weights[kinds] + config.variation * rng.standard_normal((n, TASTE_SIZE))
    return Raters(kinds.astype(np.int64), weights, temperature, config)


def pack_reads(slot_probabilities: list[FloatArray]) -> FloatArray:
    """Join a reader's probabilities, one ``(..., n_values)`` array a slot, to reads ``(..., 38)``.

    Raises:
        ValueError: If the slots' sizes are not the grammar's.
    """
    sizes = tuple(p.shape[-1] for p in slot_probabilities)
    if sizes != N_VALUES:
        raise ValueError(f"a read needs one block a slot of sizes {N_VALUES}, got {sizes}; use Reader.read's output")
    packed: FloatArray = np.concatenate(slot_probabilities, axis=-1)
    return packed


def exact_reads(values: IntArray) -> FloatArray:
    """Reads ``(..., 38)`` of pictures that surely show ``values`` ``(..., 6)``; an unset slot reads as all zero."""
    blocks = [np.eye(n + 1)[values[..., s]][..., 1:] for s, n in enumerate(N_VALUES)]
    return np.concatenate(blocks, axis=-1)


def _check_reads(reads: FloatArray) -> None:
    if reads.shape[-1] != READ_SIZE:
        raise ValueError(f"reads must end in {READ_SIZE} probabilities, got shape {reads.shape}; see pack_reads")


def prompt_penalty(reads: FloatArray, prompt_values: IntArray, config: RaterConfig = DEFAULT_CONFIG) -> FloatArray:
    """Logits lost because a picture misses what the initial prompt names. The same for every rater.

    Args:
        reads: ``(..., 38)`` soft probabilities.
        prompt_values: ``(..., 6)`` slot values of the initial prompt, 0 where unset; broadcasts.
        config: The two penalties.

    Returns:
        ``(...)`` penalties, at least 0.

    Raises:
        ValueError: If the reads have another size.
    """
    _check_reads(reads)
    price = np.full(grammar.N_SLOTS, config.intent_penalty)
    price[grammar.SUBJECT] = config.subject_penalty
    total = np.zeros(np.broadcast_shapes(reads.shape[:-1], prompt_values.shape[:-1]))
    for slot in range(grammar.N_SLOTS):
        value = prompt_values[..., slot]
        index = np.broadcast_to(_OFFSETS[slot] + np.maximum(value, 1) - 1, total.shape)[..., None]
        shown = np.take_along_axis(np.broadcast_to(reads, (*total.shape, READ_SIZE)), index, axis=-1)[..., 0]
        total = total + price[slot] * (value > 0) * (1.0 - shown)
    return total


def taste_logits(
    reads: FloatArray, prompt_values: IntArray, weights: FloatArray, config: RaterConfig = DEFAULT_CONFIG
) -> FloatArray:
    """How much raters like pictures, in logits: base + expected weight of what is shown - penalties.

    Args:
        reads: ``(..., 38)`` soft probabilities.
        prompt_values: ``(..., 6)`` slot values of the initial prompt.
        weights: ``(..., 26)`` raters' weights; all three broadcast.
        config: Base and penalties.

    Returns:
        ``(...)`` logits.
    """
    _check_reads(reads)
    liked = (reads[..., N_SUBJECTS:] * weights).sum(axis=-1)
    logits: FloatArray = config.base + liked - prompt_penalty(reads, prompt_values, config)
    return logits


def sigmoid(logits: FloatArray) -> FloatArray:
    """Logistic function, safe for large arguments."""
    result: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return result


def image_utilities(
    reads: FloatArray, prompt_values: IntArray, weights: FloatArray, config: RaterConfig = DEFAULT_CONFIG
) -> FloatArray:
    """Utilities of pictures in [0, 1]: the sigmoid of ``taste_logits``, of the same shapes."""
    return sigmoid(taste_logits(reads, prompt_values, weights, config))


def column_utilities(utilities: FloatArray, sharpness: float = DEFAULT_CONFIG.best_image_sharpness) -> FloatArray:
    """Judge columns ``(..., M)`` mostly by their best image: ``(...)`` in [0, 1].

    The weights are ``softmax(sharpness * utility)``: 0 is the mean, infinity the maximum.
    """
    scaled = sharpness * (utilities - utilities.max(axis=-1, keepdims=True))
    weights = np.exp(scaled)
    result: FloatArray = (weights * utilities).sum(axis=-1) / weights.sum(axis=-1)
    return result


def choice_probabilities(utilities: FloatArray, temperature: float) -> FloatArray:
    """Multinomial logit over columns ``(..., L)`` with logits ``temperature * utility``."""
    return softmax(temperature * utilities)


def calibrate_temperature(utilities: FloatArray, best_share: float = DEFAULT_CONFIG.best_share) -> float:
    """Find the temperature at which the best of the columns is chosen with probability ``best_share`` on average.

    Args:
        utilities: ``(n, L)`` column utilities of typical slates, each seen by some rater.
        best_share: The wanted mean probability of the best column.

    Returns:
        The temperature, by bisection to five digits.

    Raises:
        ValueError: If no temperature in 1e-3..1e3 reaches the share on these slates.
    """

    def share(log_temperature: float) -> float:
        return float(choice_probabilities(utilities, np.exp(log_temperature)).max(axis=-1).mean())

    low, high = np.log(1e-3), np.log(1e3)
    if not share(low) < best_share < share(high):
        raise ValueError(
            f"best_share must lie between {share(low):.3f} and {share(high):.3f} on these {len(utilities)} slates, "
            f"got {best_share}; equal columns cannot be told apart, pass slates that differ"
        )
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if share(middle) < best_share else (low, middle)
    return float(np.exp(0.5 * (low + high)))


def sample_choices(utilities: FloatArray, temperature: float, rng: np.random.Generator) -> IntArray:
    """Choose a column of each slate ``(..., L)``: the arg-max of logits plus Gumbel noise, ``(...)``."""
    noise = rng.gumbel(size=utilities.shape)
    choices: IntArray = (temperature * utilities + noise).argmax(axis=-1)
    return choices


def comparison_probabilities(first: FloatArray, second: FloatArray, temperature: float, tie: float) -> FloatArray:
    """Davidson's model of a comparison with ties.

    Args:
        first: ``(...)`` utilities of the first pictures.
        second: ``(...)`` utilities of the second ones.
        temperature: Factor on the difference.
        tie: Tie parameter; weights are ``exp(d / 2)``, ``tie`` and ``exp(-d / 2)`` with d the scaled difference.

    Returns:
        ``(..., 3)`` probabilities of "second", "tie" and "first".
    """
    half = 0.5 * temperature * (first - second)
    weights = np.stack([np.exp(-half), np.full_like(half, tie), np.exp(half)], axis=-1)
    result: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return result


def sample_comparisons(
    first: FloatArray, second: FloatArray, temperature: float, tie: float, rng: np.random.Generator
) -> FloatArray:
    """Compare pictures: 1 where the first is preferred, 0 where the second is, 0.5 for a tie; ``(...)``."""
    cumulative = comparison_probabilities(first, second, temperature, tie).cumsum(axis=-1)
    draw = rng.random(np.shape(first))[..., None]
    labels: FloatArray = 0.5 * (draw > cumulative[..., :2]).sum(axis=-1)
    return labels


def sample_rankings(utilities: FloatArray, temperature: float, rng: np.random.Generator) -> IntArray:
    """Rank the pictures of each list ``(..., n)`` by Plackett and Luce's model; returns indices, best first."""
    noise = rng.gumbel(size=utilities.shape)
    order: IntArray = (-(temperature * utilities + noise)).argsort(axis=-1)
    return order


def sample_ratings(utilities: FloatArray, levels: int, noise: float, rng: np.random.Generator) -> IntArray:
    """Rate pictures ``(...)`` on 1..levels: utility 0 is 1, utility 1 is the top, plus noise, rounded."""
    exact = 1.0 + (levels - 1) * utilities + noise * rng.standard_normal(np.shape(utilities))
    ratings: IntArray = np.clip(np.rint(exact), 1, levels).astype(np.int64)
    return ratings


def sample_improvements(
    before: FloatArray, after: FloatArray, config: RaterConfig, rng: np.random.Generator
) -> IntArray:
    """Say whether a turn is better (1), the same (0) or worse (-1) than the one before, ``(...)``."""
    felt = after - before + config.improvement_noise * rng.standard_normal(np.shape(before))
    verdicts: IntArray = np.where(np.abs(felt) < config.same_band, 0, np.sign(felt)).astype(np.int64)
    return verdicts


def critique(read: FloatArray, prompt_values: IntArray, weights: FloatArray) -> str:
    """Say in at most 12 words what would help one picture most.

    Args:
        read: ``(38,)`` of the best picture of the chosen column.
        prompt_values: ``(6,)`` of the initial prompt.
        weights: ``(26,)`` the rater's.

    Returns:
        A complaint about a missing subject, a wish for a liked value that is not shown, or a wish for less of a
        disliked one, whichever would raise the taste most.
    """
    subject = int(prompt_values[grammar.SUBJECT])
    if subject and read[subject - 1] < 0.5:
        return f"where is {grammar.SLOTS[grammar.SUBJECT].phrases[subject - 1][0]}?"
    shown = read[N_SUBJECTS:]
    gain = np.where(weights > 0, weights * (1.0 - shown), -weights * shown)
    names = [pair[0] for slot in grammar.ATTRIBUTES for pair in grammar.SLOTS[slot].phrases]
    best = int(gain.argmax())
    return f"more like this: {names[best]}" if weights[best] > 0 else f"I do not like this: {names[best]}"
