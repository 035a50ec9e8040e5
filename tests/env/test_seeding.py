import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym import seeding

whole = st.integers(-(2**70), 2**70)


def splitmix64(state):
    """The published generator in Python integers: the next state's output."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@given(st.lists(whole, min_size=1, max_size=4))
def test_mix_is_a_chain_of_splitmix64(parts):
    state = 0x243F6A8885A308D3
    for part in parts:
        state = splitmix64((state + part) % 2**64)
    assert int(seeding.mix(*parts)) == state


def test_the_streams_are_splitmix64_with_its_published_numbers():
    # The first outputs for seed 1234567, as printed in many languages' test suites.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(1234567) == published[0]
    key = np.array(1234567, dtype=np.uint64)
    slices = np.array(published[:2], dtype="<u8").view("<u2")
    table = seeding._normal_quantiles()
    np.testing.assert_array_equal(seeding.normals(key, 8), table[slices])
    assert seeding.uniforms(key) == ((published[0] >> 12) + 0.5) / 2**52


def test_arrays_mix_like_their_elements_and_the_order_matters():
    rows, columns = np.arange(3)[:, None], np.arange(-2, 2)
    keys = seeding.mix(rows, 5, columns)
    assert keys.shape == (3, 4)
    assert all(keys[i, j] == seeding.mix(i, 5, j - 2) for i in range(3) for j in range(4))
    assert len(np.unique(keys)) == 12
    assert seeding.mix(1, 2) != seeding.mix(2, 1)
    assert seeding.mix(0) != seeding.mix(0, 0)


@pytest.mark.parametrize("part", [np.array([0.5]), np.array([True]), 0.5])
def test_keys_are_made_of_integers(part):
    with pytest.raises((ValueError, TypeError), match="integer"):
        seeding.mix(part)


def test_a_key_has_parts():
    with pytest.raises(ValueError, match="at least one part"):
        seeding.mix()


def test_uniforms_are_uniform_and_never_at_the_ends():
    numbers = seeding.uniforms(seeding.mix(3, np.arange(200_000)))
    assert 0 < numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 43.8  # chi-squared with 19 degrees of freedom, p = .001


def test_normals_have_the_moments_and_no_memory():
    numbers = seeding.normals(seeding.mix(4, np.arange(20_000)), 9).astype(np.float64)
    assert numbers.dtype == np.float64
    assert numbers.shape == (20_000, 9)
    assert abs(numbers.mean()) < 4 / np.sqrt(numbers.size)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / numbers.size)
    assert abs((numbers**4).mean() - 3) < 4 * np.sqrt(96 / numbers.size)
    correlations = np.corrcoef(numbers.T) - np.eye(9)
    assert np.abs(correlations).max() < 4.5 / np.sqrt(20_000)
    assert np.abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 4 / np.sqrt(20_000)


def test_more_normals_begin_with_fewer():
    keys = seeding.mix(np.arange(5), 1)
    np.testing.assert_array_equal(seeding.normals(keys, 3), seeding.normals(keys, 11)[:, :3])
    assert seeding.normals(keys, 3).dtype == np.float32


def test_gumbels_choose_like_a_softmax():
    logits = np.log([0.6, 0.3, 0.1])
    choices = (logits + seeding.gumbels(seeding.mix(np.arange(30_000)[:, None], np.arange(3)))).argmax(axis=1)
    shares = np.bincount(choices, minlength=3) / len(choices)
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=4 * np.sqrt(0.25 / 30_000))


@settings(max_examples=30)
@given(st.integers(1, 50), st.integers(0, 2**40))
def test_integers_stay_in_range_and_reach_it(high, salt):
    drawn = seeding.integers(seeding.mix(salt, np.arange(50 * high)), high)
    assert drawn.min() >= 0
    assert drawn.max() < high
    assert high < 3 or len(np.unique(drawn)) >= high // 2


def test_integers_need_a_range():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        seeding.integers(seeding.mix(np.arange(2)), np.array([3, 0]))


def test_seeds_for_torch_are_distinct_and_accepted():
    import torch

    seeds = seeding.seeds_for_torch(seeding.mix(np.arange(1000).reshape(10, 100)))
    assert len(set(seeds)) == 1000
    assert len({seed % 2**32 for seed in seeds}) > 998  # torch's generator on the CPU reads 32 bits
    assert torch.Generator().manual_seed(max(seeds)).initial_seed() == max(seeds)


def test_golden_numbers():
    # Everything an environment draws stands on these: another value is another version of the environment.
    assert int(seeding.mix(0, 1, seeding.EPISODE)) == GOLDEN_MIX
    np.testing.assert_allclose(seeding.normals(seeding.mix(0, 1, 2), 5), GOLDEN_NORMALS, atol=1e-6)


GOLDEN_MIX = 10999811455506581638
GOLDEN_NORMALS = [0.60725480, -1.40113282, 0.11078347, 1.07244837, 0.20031950]
