"""The language: ids, texts and slot values say the same thing, and the splits stay where they are."""

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from pasta_gym.mini import grammar, unsaid

ids = st.integers(0, grammar.N_PROMPTS - 1)
slot_values = st.tuples(*(st.integers(0, n - 1) for n in grammar.CARDINALITIES))
phrasings = st.integers(0, grammar.N_PHRASINGS - 1)


def digest(numbers):
    return hashlib.sha256(np.asarray(numbers, dtype="<i8").tobytes()).hexdigest()[:16]


# --- ids, values, texts -------------------------------------------------------------------------------------------


def test_an_id_is_a_mixed_radix_number_worked_by_hand():
    # Radices 13, 7, 5, 7, 7, 5 and then 4 phrasings: strides 8575, 1225, 245, 35, 5, 1.
    # fish = 2, neon = 4, night = 4, glass = 4, city = 4, framed = 4.
    canonical = 2 * 8575 + 4 * 1225 + 4 * 245 + 4 * 35 + 4 * 5 + 4
    values = np.array([2, 4, 4, 4, 4, 4])
    assert grammar.canonical_ids(values) == canonical == 23194
    assert grammar.prompt_ids(values, 3) == 4 * 23194 + 3
    assert grammar.N_CANONICAL == 13 * 7 * 5 * 7 * 7 * 5


@given(slot_values, phrasings)
def test_values_survive_the_round_trip_through_ids(values, phrasing):
    encoded = grammar.prompt_ids(np.array(values), phrasing)
    assert 0 <= encoded < grammar.N_PROMPTS
    assert_array_equal(grammar.slot_values(encoded), values)
    assert grammar.phrasings(encoded) == phrasing


@given(ids)
def test_ids_survive_the_round_trip_through_values(prompt_id):
    again = grammar.prompt_ids(grammar.slot_values(np.array(prompt_id)), grammar.phrasings(np.array(prompt_id)))
    assert again == prompt_id


@given(ids, st.integers(0, grammar.N_SLOTS - 1), st.data())
def test_one_slot_is_read_and_set_and_nothing_else(prompt_id, slot, data):
    new = data.draw(st.integers(0, grammar.CARDINALITIES[slot] - 1))
    before = grammar.slot_values(np.array(prompt_id))
    assert grammar.slot_value(np.array(prompt_id), slot) == before[slot]
    changed = grammar.with_slot(np.array(prompt_id), slot, new)
    expected = before.copy()
    expected[slot] = new
    assert_array_equal(grammar.slot_values(changed), expected)
    assert grammar.phrasings(changed) == grammar.phrasings(np.array(prompt_id))


@given(ids, phrasings)
def test_the_wording_is_set_and_nothing_else(prompt_id, phrasing):
    changed = grammar.with_phrasing(np.array(prompt_id), phrasing)
    assert changed == grammar.prompt_ids(grammar.slot_values(np.array(prompt_id)), phrasing)


def test_slots_of_several_prompts_are_set_together():
    both = grammar.with_slot(np.array([[0], [4]]), np.array([grammar.PALETTE, grammar.SUBJECT]), np.array([2, 1]))
    # The palette's stride is 1225 and the subject's 8575, times 4 phrasings.
    assert_array_equal(both, [[2 * 4900, 34300], [4 + 2 * 4900, 34304]])


@given(ids)
@settings(max_examples=400)
def test_text_survives_the_round_trip_through_parsing(prompt_id):
    text = grammar.prompt_text(prompt_id)
    parsed = grammar.parse_prompt(text)
    assert grammar.prompt_text(parsed) == text
    assert parsed // grammar.N_PHRASINGS == prompt_id // grammar.N_PHRASINGS


@given(ids.filter(lambda i: all(grammar.slot_values(np.array(i))[[grammar.SUBJECT, grammar.STYLE]] > 0)))
def test_the_phrasing_survives_parsing_when_both_wordings_are_heard(prompt_id):
    # The subject tells the low bit of the phrasing and the style its high bit.
    assert grammar.parse_prompt(grammar.prompt_text(prompt_id)) == prompt_id


@given(st.lists(ids, min_size=1, max_size=20))
def test_words_are_counted_without_writing_the_text(prompt_ids):
    texts = grammar.prompt_texts(prompt_ids)
    assert_array_equal(grammar.word_counts(np.array(prompt_ids)), [len(text.split()) for text in texts])


def test_arrays_of_any_shape_are_decoded():
    grid = np.arange(24, dtype=np.int64).reshape(2, 3, 4) * 18_001
    values = grammar.slot_values(grid)
    assert values.shape == (2, 3, 4, 6)
    assert_array_equal(values[1, 2, 3], grammar.slot_values(np.array(23 * 18_001)))
    assert_array_equal(grammar.prompt_ids(values, grammar.phrasings(grid)), grid)


@pytest.mark.parametrize(
    ("names", "phrasing", "text"),
    [
        (("cat",), 0, "a cat"),
        (("cat",), 1, "a kitten"),
        (("cat", "night", "glass"), 2, "a cat at night, leaded window"),
        (("tree", "warm", "morning", "pixel", "beach", "framed"), 0,
         "a tree on the beach in the morning, pixel art, warm colors, framed"),
        (("tree", "warm", "morning", "pixel", "beach", "framed"), 3,
         "an oak by the sea at dawn, retro sprite, fiery reds, with a border"),
        ((), 2, "an image of memory"),
        (("cool",), 3, "an image of joy, icy blues"),
    ],
)  # fmt: skip
def test_texts_written_by_hand(names, phrasing, text):
    assert grammar.prompt_text(grammar.prompt_ids_of(*names, phrasing=phrasing)) == text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Cat", ("cat",)),
        ("A CAT, at night.", ("cat", "night")),
        ("leaded window cat moon under", None),
        ("stained glass with a goldfish among pines", ("glass", "fish", "forest")),
        ("a cat, a kitten", ("cat",)),
        ("off to the side a robot", ("offset", "robot")),
        ("rule of thirds", ("offset",)),
        ("a picture of the spaceship, close-up", ("rocket", "closeup")),
    ],
)
def test_people_may_write_words_in_any_order(text, names):
    if names is None:
        with pytest.raises(ValueError, match="'moon'"):
            grammar.parse_prompt(text)
    else:
        assert grammar.parse_prompt(text) // 4 == grammar.prompt_ids_of(*names) // 4


def test_every_value_reads_differently_in_both_wordings():
    phrases = [phrase for slot in grammar.SLOTS for pair in slot.phrases for phrase in pair]
    assert len(set(phrases)) == len(phrases) == 2 * 38
    assert all(len(slot.phrases) == len(slot.values) for slot in grammar.SLOTS)


def test_the_vocabulary_is_every_word_of_every_prompt():
    rng = np.random.default_rng(5)
    heard = {w for i in rng.integers(0, grammar.N_PROMPTS, 3000) for w in grammar.words(grammar.prompt_text(int(i)))}
    assert heard == set(grammar.vocabulary())


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat at nigth", r"'nigth'.*did you mean.*'night'"),
        ("a catle by the sea", r"'catle'.*did you mean.*'castle'"),
        ("a cat, 42", r"'42'.*known words: .*aquarelle"),
        ("un château", r"'un' in the prompt 'un château'"),
        ("château", r"'château'"),
        ("a cat and a fish", r"two values of subject: 'cat' and 'fish'; keep one"),
        ("a cat at night in the morning", r"two values of light: 'night' and 'morning'"),
        ("an image of love and joy", r"two abstract concepts: 'love' and 'joy'"),
        ("a cat, freedom", "both a subject and an abstract concept"),
        ("", "says nothing; try 'a cat'"),
        ("an image of the", "says nothing"),
    ],
)
def test_what_cannot_be_read_is_said_with_a_cure(text, message):
    with pytest.raises(ValueError, match=message):
        grammar.parse_prompt(text)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a cat by night", "'by the sea'"),
        ("a warm cat", "'warm colors'"),
        ("a cat, art", "'vector art' or 'pixel art'"),
        ("colors", "'warm colors' or 'cool colors' or 'pastel colors' or 'neon colors' or 'earthy colors'"),
    ],
)
def test_a_word_that_stands_in_phrases_alone_names_them(text, phrases):
    with pytest.raises(ValueError, match=f"only within a phrase: write {phrases}$"):
        grammar.parse_prompt(text)


def message_about(text):
    try:
        grammar.parse_prompt(text)
    except ValueError as error:
        return str(error)
    return ""


def test_no_message_offers_a_word_in_its_own_place():
    messages = {word: message_about(word) for word in grammar.vocabulary()}
    refused = {word: said for word, said in messages.items() if said and "says nothing" not in said}
    assert len(refused) == 63
    for word, said in refused.items():
        offered = re.findall(r"'([^']*)'", said.rpartition("only within a phrase: write ")[2])
        assert offered
        assert all(word in phrase.split() and grammar.parse_prompt(phrase) for phrase in offered)


@pytest.mark.parametrize("prompt_id", [-1, grammar.N_PROMPTS])
def test_ids_out_of_range_are_refused(prompt_id):
    with pytest.raises(ValueError, match=rf"0\.\.445899, got {prompt_id}"):
        grammar.prompt_text(prompt_id)


def test_names_are_checked():
    with pytest.raises(ValueError, match="'dog' is no value of the grammar; values: beach, boat"):
        grammar.prompt_ids_of("dog")
    with pytest.raises(ValueError, match="'cat' and 'fish' are both values of subject"):
        grammar.prompt_ids_of("cat", "fish")
    with pytest.raises(ValueError, match=r"phrasing must be in 0\.\.3, got 4"):
        grammar.prompt_ids_of("cat", phrasing=4)
    with pytest.raises(ValueError, match="got 'dev'"):
        grammar.initial_prompt_ids("dev")


# --- splits -------------------------------------------------------------------------------------------------------

SPLITS = {name: grammar.initial_prompt_ids(name) for name in grammar.SPLITS}


@pytest.mark.parametrize(
    ("split", "count", "sha"),
    [
        ("train", 9744, "b4d5b98d6550c41a"),
        ("validation", 2164, "9a2a45ebc4fa51a6"),
        ("test", 2200, "24e9282d3e395bf6"),
    ],
)
def test_the_splits_are_frozen(split, count, sha):
    # Another split is another benchmark: weights, datasets and tables made with the old one are void.
    assert len(SPLITS[split]) == count
    assert digest(SPLITS[split]) == sha


def test_texts_are_frozen():
    texts = "".join(grammar.prompt_texts(np.arange(0, grammar.N_PROMPTS, 997)))
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "1c68bd3e6885faf6"


def test_splits_share_no_canonical_prompt_but_the_abstract_ones():
    canonical = {name: set((split // grammar.N_PHRASINGS).tolist()) for name, split in SPLITS.items()}
    assert canonical["train"] & canonical["test"] == {0}
    assert canonical["train"] & canonical["validation"] == {0}
    assert canonical["validation"] & canonical["test"] == {0}


def test_no_text_is_in_two_splits_but_the_abstract_ones():
    texts = {name: set(grammar.prompt_texts(split)) for name, split in SPLITS.items()}
    abstract = {f"an image of {concept}" for concept in grammar.ABSTRACT_CONCEPTS}
    assert texts["train"] & texts["test"] == texts["validation"] & texts["test"] == abstract


@pytest.mark.parametrize("split", grammar.SPLITS)
def test_initial_prompts_are_short_and_say_little(split):
    prompts = SPLITS[split]
    values = grammar.slot_values(prompts)
    named = values[:, grammar.SUBJECT] > 0
    n_attributes = (values[:, 1:] > 0).sum(axis=1)
    assert max(len(text.split()) for text in grammar.prompt_texts(prompts)) <= 10
    assert n_attributes[named].max() == 2
    assert n_attributes[~named].max() == 1
    assert_array_equal(prompts, np.unique(prompts))
    assert set(range(1, 13)) <= set(values[:, grammar.SUBJECT].tolist())


def every_triple():
    triples = np.stack(np.meshgrid(range(1, 13), range(1, 7), range(1, 7), indexing="ij"), axis=-1).reshape(-1, 3)
    values = np.zeros((len(triples), grammar.N_SLOTS), dtype=np.int64)
    values[:, [grammar.SUBJECT, grammar.STYLE, grammar.SETTING]] = triples
    return values


def test_about_an_eighth_of_the_triples_is_held_out():
    held_out = grammar.is_held_out(every_triple())
    assert held_out.shape == (432,)
    assert held_out.sum() == 59
    assert 0.10 < held_out.mean() < 0.15


@given(slot_values)
def test_held_out_depends_on_the_triple_alone(values):
    values = np.array(values)
    triple = np.zeros_like(values)
    slots = [grammar.SUBJECT, grammar.STYLE, grammar.SETTING]
    triple[slots] = values[slots]
    assert grammar.is_held_out(values) == grammar.is_held_out(triple)


def test_incomplete_triples_are_never_held_out():
    every = np.stack(np.meshgrid(range(13), range(7), range(7), indexing="ij"), axis=-1).reshape(-1, 3)
    incomplete = every[(every == 0).any(axis=1)]
    values = np.zeros((len(incomplete), grammar.N_SLOTS), dtype=np.int64)
    values[:, [grammar.SUBJECT, grammar.STYLE, grammar.SETTING]] = incomplete
    assert len(values) == 13 * 7 * 7 - 12 * 6 * 6
    assert not grammar.is_held_out(values).any()


def test_every_value_of_the_triple_is_still_seen_in_training():
    kept = every_triple()[~grammar.is_held_out(every_triple())]
    for slot, n in ((grammar.SUBJECT, 12), (grammar.STYLE, 6), (grammar.SETTING, 6)):
        assert set(kept[:, slot].tolist()) == set(range(1, n + 1))


def test_nothing_held_out_reaches_training():
    rng = np.random.default_rng(7)
    assert not grammar.is_held_out(grammar.slot_values(SPLITS["train"])).any()
    assert grammar.is_held_out(grammar.slot_values(SPLITS["test"])).any()
    drawn = grammar.sample_values(4000, rng)
    assert drawn.shape == (4000, 6)
    assert not grammar.is_held_out(drawn).any()
    assert not grammar.is_held_out(unsaid.fill_unset(drawn, rng)).any()
    assert not grammar.is_held_out(unsaid.default_values()[1:]).any()


# --- filling what is not said -------------------------------------------------------------------------------------


@given(st.lists(slot_values, min_size=1, max_size=30), st.integers(0, 2**32))
def test_filling_keeps_what_is_said_and_says_the_rest(rows, seed):
    values = np.array(rows)
    filled = unsaid.fill_unset(values, np.random.default_rng(seed))
    assert (filled >= 1).all()
    assert (filled < np.array(grammar.CARDINALITIES)).all()
    assert_array_equal(filled[values > 0], values[values > 0])
    unseen_only_if_named = grammar.is_held_out(filled) <= grammar.is_held_out(values)
    assert unseen_only_if_named.all()


def test_the_usual_look_fills_half_and_any_value_the_rest():
    rocket = np.zeros((8000, 6), dtype=np.int64)
    rocket[:, grammar.SUBJECT] = 11
    filled = unsaid.fill_unset(rocket, np.random.default_rng(3), avoid_held_out=False)
    usual = unsaid.default_values()[11]
    for slot in grammar.ATTRIBUTES:
        share = (filled[:, slot] == usual[slot]).mean()
        assert share == pytest.approx(0.5 + 0.5 / (grammar.CARDINALITIES[slot] - 1), abs=0.025)


def test_filling_may_show_held_out_triples_only_when_asked():
    cat = np.zeros((6000, 6), dtype=np.int64)
    cat[:, grammar.SUBJECT] = 1
    rng = np.random.default_rng(11)
    assert grammar.is_held_out(unsaid.fill_unset(cat, rng, avoid_held_out=False)).any()
    assert not grammar.is_held_out(unsaid.fill_unset(cat, rng)).any()


def test_sampled_prompts_say_as_much_as_asked():
    drawn = grammar.sample_values(20_000, np.random.default_rng(2), set_probability=0.3)
    assert (drawn[:, grammar.PALETTE] > 0).mean() == pytest.approx(0.3, abs=0.02)
    assert (drawn[:, grammar.SUBJECT] > 0).mean() == pytest.approx(0.9, abs=0.02)
    again = grammar.sample_values(20_000, np.random.default_rng(2), set_probability=0.3)
    assert_array_equal(drawn, again)
