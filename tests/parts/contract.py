"""What every part of an environment must do, as functions to call from a test: hand them a part of your own.

Tolerances are for matrix products, which round differently in batches of different sizes, on each processor in its
own way; a picture whose pixel falls on the other side of a rounding moves an embedding a little further.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pasta_gym.types import (
    CandidateGenerator,
    History,
    ImageGenerator,
    Images,
    PromptBook,
    TextEncoder,
    UserModelProtocol,
)

TOLERANCE = 2e-4  # of the largest entry, where that is above 1
_ROWS = ("initial_prompts", "slates", "choices", "chosen_prompts", "turns", "keys")


def check_prompt_book(book, texts: list[str], unreadable: str) -> None:
    """Check a prompt book on texts as it writes them, and on one that it cannot read."""
    assert isinstance(book, PromptBook)
    ids = np.array([book.parse(text) for text in texts])
    assert book.texts(ids) == texts, "what is written out is read back"
    keys = book.keys(ids)
    assert keys.shape == ids.shape
    assert keys.dtype == np.uint64
    assert np.array_equal(book.keys(ids[::-1].reshape(-1, 1))[::-1, 0], keys), "a key is a function of its prompt"
    assert len(set(keys.tolist())) == len(set(ids.tolist())), "prompts have keys of their own"
    with pytest.raises(ValueError, match=r".{10}"):
        book.parse(unreadable)


def check_text_encoder(encoder, ids: np.ndarray) -> None:
    """Check a text encoder on prompt ids ``(n,)``, n even and at least 4."""
    assert isinstance(encoder, TextEncoder)
    before = ids.copy()
    embedded = encoder.embed(ids)
    _check_floats(embedded, (len(ids), encoder.embedding_dim))
    assert np.array_equal(ids, before), "ids were written to"
    assert np.array_equal(encoder.embed(ids), embedded), "the same ids give the same embeddings"
    assert np.array_equal(encoder.embed(ids.reshape(2, -1)).reshape(embedded.shape), embedded), "ids of any shape"
    assert np.array_equal(encoder.embed(ids[:1]), embedded[:1]), "an embedding does not depend on the others"
    assert encoder.embed(ids[:0]).shape == (0, encoder.embedding_dim)


def check_embedder(embed, inputs, dim: int) -> None:
    """Check a text or image embedder, the model under an encoder, on at least 3 texts or pictures."""
    embedded = embed(inputs)
    _check_floats(embedded, (len(inputs), dim))
    assert np.array_equal(embed(inputs), embedded), "the same input gives the same embeddings"
    atol = _rounding(embedded)
    np.testing.assert_allclose(embed(inputs[::-1])[::-1], embedded, atol=atol, err_msg="rows may come in any order")
    np.testing.assert_allclose(embed(inputs[1:2]), embedded[1:2], atol=atol, err_msg="a row depends on its batch")
    assert np.abs(embedded[0] - embedded[1]).max() > 100 * atol, "different input, different embeddings"
    assert embed(inputs[:0]).shape == (0, dim)


def check_candidate_generator(generator, history: History, *, is_random: bool = True) -> None:
    """Check a candidate generator on a history of at least 2 conversations.

    ``is_random=False`` is for one whose proposals do not depend on the keys.
    """
    assert isinstance(generator, CandidateGenerator)
    assert all(isinstance(title, str) and title for title in generator.category_titles), "categories have titles"
    before = {name: getattr(history, name).copy() for name in _ROWS}
    ids, categories = generator.propose(history)
    n = len(history.keys)
    for array in (ids, categories):
        assert array.shape == (n, generator.n_candidates)
        assert array.dtype == np.int64
    assert ids.min() >= 0, "-1 stands for turns to come"
    assert categories.min() >= 0
    assert categories.max() < len(generator.category_titles), "categories are places in the titles"
    for name, value in before.items():
        assert np.array_equal(getattr(history, name), value), f"history.{name} was written to"

    def proposes(rows, expected, note: str, **changes) -> None:
        own = replace(history, **{name: before[name][rows].copy() for name in _ROWS}, **changes)
        for found, known in zip(generator.propose(own), expected, strict=True):
            assert np.array_equal(found, known), note

    proposes(slice(None), (ids, categories), "equal histories and keys, equal proposals")
    for row in range(n):
        alone = slice(row, row + 1)
        proposes(alone, (ids[alone], categories[alone]), "a row does not depend on the rest of the batch")
    proposes(slice(None, None, -1), (ids[::-1], categories[::-1]), "rows may come in any order")
    if is_random:
        other, _ = generator.propose(replace(history, keys=history.keys + np.uint64(1)))
        assert not np.array_equal(other, ids), "other keys, other proposals"


def check_image_generator(generator, prompts: np.ndarray, keys: np.ndarray) -> None:
    """Check an image generator on different prompts ``(N,)`` and keys ``(N, M)``, N and M at least 2."""
    assert isinstance(generator, ImageGenerator)
    before = prompts.copy(), keys.copy()
    images = generator.generate(prompts, keys)
    assert isinstance(images, Images)
    _check_floats(images.embeddings, (*keys.shape, generator.embedding_dim))
    if getattr(generator, "paints", images.pixels is not None):
        assert images.pixels is not None, "one that paints gives pixels"
        assert images.pixels.dtype == np.uint8
        assert images.pixels.shape[:2] == keys.shape
        assert images.pixels.shape[4:] == (3,)
    assert np.array_equal(prompts, before[0]), "prompts were written to"
    assert np.array_equal(keys, before[1]), "keys were written to"
    atol = _rounding(images.embeddings)

    def paints(which, columns, note: str) -> None:
        found = generator.generate(prompts[which], keys[which][:, columns])
        np.testing.assert_allclose(found.embeddings, images.embeddings[which][:, columns], atol=atol, err_msg=note)
        if images.pixels is not None:
            apart = found.pixels.astype(int) - images.pixels[which][:, columns]
            assert np.abs(apart).max() <= 1, note

    every = slice(None)
    paints(every, every, "the same prompts and keys give the same pictures")
    paints(slice(0, 1), every, "a picture does not depend on the other prompts")
    paints(every, slice(1, 2), "a picture does not depend on the other pictures of its prompt")
    paints(slice(None, None, -1), slice(None, None, -1), "prompts and keys may come in any order")
    other = generator.generate(prompts, keys + np.uint64(1)).embeddings
    assert np.abs(other - images.embeddings).max() > 100 * atol, "other keys, other pictures"
    assert np.abs(images.embeddings[:, 0] - images.embeddings[:, 1]).max() > 100 * atol, "each key has its picture"


def check_user_model(model, prompt_embeddings: np.ndarray, slate_images: np.ndarray) -> None:
    """Check a user model on initial prompts ``(B, d)`` and slates ``(B, H, L, M, d)``, B and H at least 2."""
    assert isinstance(model, UserModelProtocol)
    b, h, n_columns = slate_images.shape[:3]
    k = model.n_types
    prior = np.asarray(model.prior)
    assert prior.shape == (k,)
    assert prior.min() >= 0
    assert prior.sum() == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="nonsense"):
        model.with_aggregator("nonsense")
    assert model.with_aggregator(model.aggregator).n_types == k

    columns, types = slate_images[:, 0], np.arange(b) % k
    before = prompt_embeddings.copy(), slate_images.copy()
    features = model.prompt_features(prompt_embeddings)
    assert features.shape[:2] == (b, k)
    utilities, every = model.utilities(types, features, columns), model.all_utilities(features, columns)
    for found, shape in ((utilities, (b, n_columns)), (every, (b, k, n_columns))):
        _check_floats(found, shape, any_width=True)
        assert found.min() >= -1e-6
        assert found.max() <= 1 + 1e-6
    np.testing.assert_allclose(every[np.arange(b), types], utilities, atol=1e-5, err_msg="a user is one of the types")
    alone = model.utilities(types[1:2], model.prompt_features(prompt_embeddings[1:2]), columns[1:2])
    np.testing.assert_allclose(alone, utilities[1:2], atol=1e-5, err_msg="a row does not depend on its batch")
    turned = model.utilities(types, features, columns[:, ::-1].copy())
    np.testing.assert_allclose(turned[:, ::-1], utilities, atol=1e-5, err_msg="columns may come in any order")
    logits = model.choice_logits(utilities)
    _check_floats(logits, utilities.shape, any_width=True)
    assert np.array_equal(logits.argmax(axis=1), utilities.argmax(axis=1)), "the best column is the likeliest choice"

    nothing = np.full((b, h), -1)
    posterior = model.posterior(prompt_embeddings, slate_images, nothing)
    np.testing.assert_allclose(posterior, np.tile(prior, (b, 1)), atol=1e-5, err_msg="without evidence the prior stays")
    choices = np.arange(b * h).reshape(b, h) % n_columns
    believed = model.posterior(prompt_embeddings, slate_images, choices)
    _check_floats(believed, (b, k), any_width=True)
    np.testing.assert_allclose(believed.sum(axis=1), 1, atol=1e-5)
    assert np.abs(believed - posterior).max() > 1e-3, "choices are evidence"
    alone = model.posterior(prompt_embeddings[1:2], slate_images[1:2], choices[1:2])
    np.testing.assert_allclose(alone, believed[1:2], atol=1e-5, err_msg="a belief does not depend on its batch")
    assert np.array_equal(prompt_embeddings, before[0]), "prompt embeddings were written to"
    assert np.array_equal(slate_images, before[1]), "slates were written to"


def _check_floats(array, shape, *, any_width: bool = False) -> None:
    assert array.shape == shape
    assert array.dtype.kind == "f" if any_width else array.dtype == np.float32
    assert np.isfinite(array).all()


def _rounding(embeddings: np.ndarray) -> float:
    """How far apart two computations of the same embeddings may be."""
    return TOLERANCE * max(1.0, float(np.abs(embeddings).max()))
