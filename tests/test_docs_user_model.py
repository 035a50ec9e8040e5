"""The examples of ``docs/user_model_evaluation.md`` run on a small user model and planted labels."""

import pathlib
import re

import numpy as np

from tests.user_model.conftest import make_planted
from tests.user_model.test_types import DIM, make_model

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "user_model_evaluation.md"


def test_types_afterwards():
    rng = np.random.default_rng(3)
    page = {
        "model": make_model(3),
        "data": make_planted(n_train=6, n_test=2, n_pairs=4, n_test_pairs=4).data,
        "raters": np.array([1, 4]),
        "prompts": rng.standard_normal((20, DIM)).astype(np.float32),
        "slates": rng.standard_normal((20, 4, 2, DIM)).astype(np.float32),
    }
    blocks = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], str(PAGE), "exec"), page)
    assert page["posterior"].shape == (2, 3)
    np.testing.assert_allclose(page["posterior"].sum(axis=1), 1, rtol=1e-6)
    assert page["types"].shape == (2,)
    assert sorted(k for group in page["groups"] for k in group) == [0, 1, 2]
    assert page["merged"].n_types == len(page["groups"])
