"""Seeds of a vector of conversations, given for some of them alone."""

import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from tests.env.test_environment import make, make_vec


def test_a_conversation_without_a_seed_of_its_own_keeps_the_one_it_has():
    envs, alone = make_vec(3), make_vec(3)
    envs.reset(seed=5)
    alone.reset(seed=5)
    second, _ = alone.reset()  # the second episode of seeds 5, 6 and 7
    mixed, _ = envs.reset(seed=[1, None, 2])
    for i, seed in ((0, 1), (2, 2)):
        own, _ = make().reset(seed=seed)
        assert data_equivalence({name: value[i] for name, value in mixed.items()}, dict(own), exact=False)
    assert data_equivalence({k: v[1] for k, v in mixed.items()}, {k: v[1] for k, v in second.items()})
    fresh, other = make_vec(2), make_vec(2)
    a, b = fresh.reset(seed=[None, 4])[0], other.reset(seed=[None, 4])[0]
    assert data_equivalence({k: v[1] for k, v in a.items()}, {k: v[1] for k, v in b.items()})
    assert not np.array_equal(a["candidates"][0], b["candidates"][0])
    third = alone.reset(seed=[None, None, None])[0]
    envs.reset(seed=5)
    envs.reset()
    assert data_equivalence(third, envs.reset()[0])
