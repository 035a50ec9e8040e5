"""Every part that runs without a network keeps its contract, and the contract refuses parts that do not."""

import numpy as np
import pytest

from pasta_gym.candidates import EditCandidates
from pasta_gym.candidates.llm_fallback import embedded_candidates
from pasta_gym.images import DiffusionImages
from pasta_gym.mini import clip, grammar, sdxl
from pasta_gym.prompt_books import InternedPromptBook
from pasta_gym.seeding import mix
from pasta_gym.types import History, Images
from pasta_gym.worlds import GrammarPromptBook, make_world
from tests.candidates.test_llm import GOOD, made
from tests.env.tiny_world import TinyBook, TinyCandidates, TinyEncoder, TinyImages, TinyUsers
from tests.parts import contract

PROMPTS = np.array(
    [grammar.prompt_ids_of("cat"), grammar.prompt_ids_of("boat", "night"), grammar.prompt_ids_of("neon")]
)
KEYS = mix(np.arange(3)[:, None], np.arange(2))


def history(chosen, seed=0):
    n = len(chosen)
    slates, choices = np.full((n, 5, 4), -1), np.full((n, 5), -1)
    slates[:, 0], choices[:, 0] = chosen[:, None], 2
    return History(chosen, slates, choices, chosen.copy(), np.ones(n, dtype=np.int64), mix(seed, np.arange(n)), 5)


def of_a_book(generator):
    """A history in the generator's own book."""
    return history(generator.prompt_book.add(["a fox", "a fox at sea", "an owl in fog"]))


def test_prompt_books():
    contract.check_prompt_book(GrammarPromptBook(), ["a cat", "a cat at night", "an image of joy"], "a unicorn")
    contract.check_prompt_book(InternedPromptBook(), ["a fox", "un château", "A fox"], "   ")
    contract.check_prompt_book(TinyBook(), ["prompt 1", "prompt 7"], "prompt x")


@pytest.mark.parametrize("split", ["train", "test"])
def test_candidates_of_the_grammar(split):
    contract.check_candidate_generator(make_world("mini").candidate_generator(split, 25, 5), history(PROMPTS))


def test_candidates_of_a_language_model_and_by_rule():
    reader = made(GOOD)
    contract.check_candidate_generator(reader, of_a_book(reader), is_random=False)
    by_rule = made("I cannot help with that.", n_attempts=1)
    contract.check_candidate_generator(by_rule, of_a_book(by_rule))
    worlds_own = made("no", n_attempts=1, preferred=embedded_candidates(EditCandidates(), GrammarPromptBook()))
    texts = [grammar.prompt_text(int(prompt)) for prompt in PROMPTS]
    contract.check_candidate_generator(worlds_own, history(worlds_own.prompt_book.add(texts)))


def test_the_mini_clip_and_its_encoder():
    model = clip.load_clip()
    contract.check_embedder(model.encode_texts, ["a cat", "a boat at night", "an image of joy"], model.embedding_dim)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    contract.check_embedder(model.encode_images, pixels, model.embedding_dim)
    encoder = make_world("mini").text_encoder
    contract.check_text_encoder(encoder, np.append(PROMPTS, PROMPTS[0]))
    with pytest.raises(ValueError, match=r"must be in 0\.\."):
        encoder.embed(np.array([grammar.N_PROMPTS]))
    contract.check_text_encoder(TinyEncoder(), np.arange(6))


@pytest.mark.parametrize("images", ["surrogate", "painter"])
def test_images_of_the_mini_world(images):
    contract.check_image_generator(make_world("mini").image_generator(images), PROMPTS, KEYS)


def test_images_of_the_mini_sdxl_in_one_step():
    model = clip.load_clip()
    painted = DiffusionImages(
        sdxl.load_pipeline(), GrammarPromptBook(), model.encode_images, model.embedding_dim,
        size=sdxl.IMAGE_SIZE, steps=1, guidance=sdxl.DEFAULT_GUIDANCE, batch_size=4,
    )  # fmt: skip
    contract.check_image_generator(painted, PROMPTS, KEYS)


@pytest.mark.parametrize("aggregator", ["softmax", "mean", "max"])
def test_the_shipped_users(aggregator):
    world = make_world("mini")
    users = world.users(aggregator=aggregator)
    slates = np.repeat(PROMPTS[:, None], 2 * 4, axis=1).reshape(-1)
    keys = mix(np.arange(len(slates))[:, None], np.arange(4))
    images = world.image_generator("surrogate").generate(slates, keys).embeddings.reshape(3, 2, 4, 4, -1)
    contract.check_user_model(users, world.text_encoder.embed(PROMPTS), images)
    with pytest.raises(ValueError, match="dimension 64"):
        users.prompt_features(np.zeros((2, 5), dtype=np.float32))


def test_the_tiny_parts():
    contract.check_candidate_generator(TinyCandidates(), history(np.array([3, 5, 900])))
    contract.check_image_generator(TinyImages(), np.array([3, 5, 900]), KEYS)
    rng = np.random.default_rng(1)
    prompts, slates = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(3, 2, 4, 2, 6)).astype(np.float32)
    contract.check_user_model(TinyUsers(), prompts, slates)


# What breaks a contract


class BatchMean(TinyImages):
    def generate(self, prompts, keys):
        embeddings = super().generate(prompts, keys).embeddings
        return Images(embeddings - embeddings.mean(axis=0))


class Counting(TinyImages):
    calls = 0

    def generate(self, prompts, keys):
        self.calls += 1
        return Images(super().generate(prompts, keys + np.uint64(self.calls)).embeddings)


class Deaf(TinyImages):
    def generate(self, prompts, keys):
        return super().generate(prompts, np.zeros_like(keys))


class ByRow(TinyCandidates):
    def propose(self, history):
        ids, categories = super().propose(history)
        return ids + np.arange(len(ids))[:, None], categories


class Scribbler(TinyCandidates):
    def propose(self, history):
        proposal = super().propose(history)
        history.chosen_prompts[:] = 0
        return proposal


class Untitled(TinyCandidates):
    def propose(self, history):
        ids, categories = super().propose(history)
        return ids, categories + 1


class OtherType(TinyUsers):
    def utilities(self, user_types, prompt_features, image_embeddings):
        return super().utilities((user_types + 1) % 3, prompt_features, image_embeddings)


class Certain(TinyUsers):
    def posterior(self, prompt_embeddings, slate_images, choices):
        return np.tile(np.eye(3)[0], (len(choices), 1))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (BatchMean, "does not depend on the other prompts"),
        (Counting, "the same prompts and keys"),
        (Deaf, "other keys, other pictures"),
    ],
)
def test_images_that_break_the_contract(part, message):
    with pytest.raises(AssertionError, match=message):
        contract.check_image_generator(part(), np.array([3, 5, 900]), KEYS)


@pytest.mark.parametrize(
    ("part", "message"),
    [(ByRow, "rest of the batch"), (Scribbler, "chosen_prompts was written to"), (Untitled, "places in the titles")],
)
def test_candidates_that_break_the_contract(part, message):
    with pytest.raises(AssertionError, match=message):
        contract.check_candidate_generator(part(), history(np.array([3, 5, 900])))


@pytest.mark.parametrize(("part", "message"), [(OtherType, "one of the types"), (Certain, "the prior stays")])
def test_users_that_break_the_contract(part, message):
    rng = np.random.default_rng(1)
    prompts, slates = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(3, 2, 4, 2, 6)).astype(np.float32)
    with pytest.raises(AssertionError, match=message):
        contract.check_user_model(part(), prompts, slates)
