"""A small world of known types over made-up embeddings: what EM must find again."""

from dataclasses import dataclass

import numpy as np
import pytest

from pasta_gym.user_model.data import PreferenceData

DIM, SHARES, TEMPERATURE = 12, np.array([0.55, 0.3, 0.15]), 6.0


@dataclass(frozen=True)
class Planted:
    data: PreferenceData
    types: np.ndarray
    tastes: np.ndarray


def make_planted(seed=0, n_train=110, n_test=30, n_pairs=24, n_test_pairs=70, sessions=2):
    rng = np.random.default_rng(seed)
    n = n_train + n_test
    types = rng.choice(3, size=n, p=SHARES)
    tastes = 1.6 * np.linalg.qr(rng.standard_normal((DIM, DIM)))[0][:3]
    n_sessions = n * sessions
    owner = np.repeat(np.arange(n), sessions)
    prompts = rng.standard_normal(DIM) + 0.3 * rng.standard_normal((n_sessions, DIM))
    per = 32  # images of a session: 2 turns of 4 columns of 4
    images = rng.standard_normal((n_sessions * per, DIM)).astype(np.float32)

    def utility(who, picture):
        return 1 / (1 + np.exp(-(images[picture] * tastes[types[who]].reshape(*who.shape, DIM)).sum(-1)))

    each = np.where(np.arange(n) < n_train, n_pairs, n_test_pairs)
    who = np.repeat(np.arange(n), each)
    session = who * sessions + rng.integers(sessions, size=len(who))
    pairs = session[:, None] * per + rng.random((len(who), per)).argsort(axis=1)[:, :2]
    gap = TEMPERATURE * (utility(who, pairs[:, 0]) - utility(who, pairs[:, 1]))
    labels = (rng.random(len(who)) < 1 / (1 + np.exp(-gap))).astype(float)
    rater = np.repeat(np.arange(n), 5)
    rated_session = rater * sessions
    rated = rated_session * per + rng.integers(per, size=len(rater))
    ratings = np.clip(utility(rater, rated) + 0.05 * rng.standard_normal(len(rater)), 0, 1)
    slates = (np.arange(n_sessions)[:, None] * per + np.arange(per)).reshape(n_sessions, 2, 4, 4)
    columns = utility(np.broadcast_to(owner[:, None, None, None], slates.shape), slates).max(axis=-1)
    choices = (TEMPERATURE * columns + rng.gumbel(size=columns.shape)).argmax(axis=-1)
    ranked = slates[::sessions, 0, :, 0]
    order = (-utility(np.broadcast_to(np.arange(n)[:, None], ranked.shape), ranked)).argsort(axis=1)
    data = PreferenceData(
        prompt_embeddings=prompts.astype(np.float32),
        image_embeddings=images,
        rater_splits=np.where(np.arange(n) < n_train, 0, 2),
        pair_raters=who,
        pair_prompts=session,
        pair_images=pairs,
        pair_labels=labels,
        rating_raters=rater,
        rating_prompts=rated_session,
        rating_images=rated,
        ratings=ratings,
        ranking_raters=np.arange(n),
        ranking_prompts=np.arange(n) * sessions,
        rankings=np.take_along_axis(ranked, order, axis=1),
        session_raters=owner,
        session_prompts=np.arange(n_sessions),
        session_images=slates,
        session_choices=choices,
    )
    return Planted(data, types, tastes)


@pytest.fixture(scope="session")
def planted():
    return make_planted()
