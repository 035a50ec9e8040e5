import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym.candidates import EditCandidates, word_budget
from pasta_gym.mini import grammar
from pasta_gym.mini.grammar import COMPOSITION, LIGHT, PALETTE, SETTING, STYLE, SUBJECT
from pasta_gym.seeding import mix
from pasta_gym.types import CandidateGenerator, History

ALLOWED = (
    {LIGHT, PALETTE},
    {SETTING, LIGHT, PALETTE},
    {STYLE, LIGHT, PALETTE},
    {COMPOSITION, LIGHT, PALETTE},
    set(range(6)),
)
MUST = (set(), {SETTING}, {STYLE}, {COMPOSITION}, set())


def history(chosen, *, initial=None, turns=0, horizon=5, seed=0):
    chosen = np.atleast_1d(np.asarray(chosen, dtype=np.int64))
    n = len(chosen)
    initial = chosen // 4 * 4 if initial is None else np.broadcast_to(initial, n)
    return History(
        initial_prompts=np.array(initial, dtype=np.int64),
        slates=np.full((n, horizon, 4), -1),
        choices=np.full((n, horizon), -1),
        chosen_prompts=chosen,
        turns=np.full(n, turns),
        keys=mix(seed, np.arange(n)),
        horizon=horizon,
    )


any_prompts = st.lists(st.integers(0, grammar.N_PROMPTS - 1), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(any_prompts, st.integers(0, 2**40), st.booleans())
def test_proposals_are_25_distinct_edits_in_five_categories(chosen, seed, avoid):
    generator = EditCandidates(avoid_held_out=avoid)
    ids, categories = generator.propose(history(chosen, turns=4, seed=seed))  # at the end the budget is 62 words
    np.testing.assert_array_equal(categories, np.tile(np.repeat(np.arange(5), 5), (len(chosen), 1)))
    before, after = grammar.slot_values(np.array(chosen)), grammar.slot_values(ids)
    for row, prompt in enumerate(chosen):
        assert len(set(ids[row].tolist()) | {prompt}) == 26
        texts = {grammar.prompt_text(int(i)) for i in ids[row]}
        assert len(texts | {grammar.prompt_text(prompt)}) == 26
        for j, category in enumerate(categories[row]):
            changed = set(np.flatnonzero(after[row, j] != before[row]).tolist())
            assert changed <= ALLOWED[category]
            assert changed >= MUST[category]
            assert len(changed) <= 2
            assert changed or category == 4
            assert (after[row, j][before[row] > 0] > 0).all()  # nothing is taken back
            if before[row, SUBJECT]:
                assert SUBJECT not in changed
            if category < 4 or (before[row, SUBJECT] == 0 and SUBJECT not in changed):
                assert ids[row, j] % 4 == prompt % 4  # the wording, and an abstract prompt's concept, stay


@settings(max_examples=40, deadline=None)
@given(any_prompts, st.integers(0, 2**40))
def test_training_never_meets_what_is_held_out(chosen, seed):
    chosen = np.array(chosen)
    chosen = chosen[~grammar.is_held_out(grammar.slot_values(chosen))]
    if len(chosen):
        ids, _ = EditCandidates(avoid_held_out=True).propose(history(chosen, turns=4, seed=seed))
        assert not grammar.is_held_out(grammar.slot_values(ids)).any()


def test_without_the_flag_held_out_prompts_do_come_up():
    chosen = grammar.initial_prompt_ids("test")
    ids, _ = EditCandidates().propose(history(chosen, turns=1))
    assert grammar.is_held_out(grammar.slot_values(ids)).any()


@settings(max_examples=40, deadline=None)
@given(any_prompts, st.integers(1, 300), st.integers(0, 2**40), st.data())
def test_candidates_keep_to_the_word_budget(initial, horizon, seed, data):
    turns = data.draw(st.integers(0, horizon))
    h = history(initial, initial=np.array(initial), turns=turns, horizon=horizon, seed=seed)
    ids, _ = EditCandidates().propose(h)
    budget = word_budget(grammar.word_counts(h.initial_prompts), np.minimum(h.turns + 1, horizon), horizon)
    counted = np.array([[len(grammar.prompt_text(int(i)).split()) for i in row] for row in ids])
    assert (counted <= budget[:, None]).all()


def test_a_tight_budget_still_gives_edits_where_some_fit():
    # "a boat at night": one word more than 4 never fits in 200 turns' first budget, other settings or lights do.
    chosen = grammar.prompt_ids_of("boat", "mountains", "night")
    ids, _ = EditCandidates().propose(history(chosen, initial=chosen, horizon=500))
    assert len(set(ids[0].tolist()) - {chosen}) >= 8


def test_abstract_prompts_get_subjects_and_keep_their_concept():
    chosen = np.array([grammar.parse_prompt("an image of memory")])
    ids, _ = EditCandidates().propose(history(np.repeat(chosen, 50), turns=3))
    subjects = grammar.slot_values(ids[:, 20:])[..., SUBJECT]
    assert ((subjects > 0).sum(axis=1) == 3).all()
    assert len(np.unique(subjects)) == 13
    kept = ids[:, 20:][subjects == 0]
    assert all("memory" in grammar.prompt_text(int(i)) for i in kept)


def test_a_proposal_depends_on_its_own_row_alone():
    chosen = np.arange(0, grammar.N_PROMPTS, 9973)
    h = history(chosen, turns=2, seed=5)
    ids, _ = EditCandidates(avoid_held_out=True).propose(h)
    row = 17
    alone = History(*(getattr(h, f)[row : row + 1] for f in list(h.__dataclass_fields__)[:6]), horizon=h.horizon)
    np.testing.assert_array_equal(EditCandidates(avoid_held_out=True).propose(alone)[0][0], ids[row])
    other, _ = EditCandidates(avoid_held_out=True).propose(history(chosen, turns=2, seed=6))
    assert (other != ids).mean() > 0.5


def test_every_value_comes_up_and_half_of_the_edits_touch_two_slots():
    chosen = np.full(4000, grammar.prompt_ids_of("cat"))
    ids, _ = EditCandidates().propose(history(chosen, turns=3))
    values = grammar.slot_values(ids)
    for slot in grammar.ATTRIBUTES:
        shares = np.bincount(values[..., slot].ravel(), minlength=grammar.CARDINALITIES[slot])[1:].astype(float)
        assert shares.min() > 0.8 * shares.mean()
    touched = (values[:, 5:10] > 0).sum(axis=-1) - 1
    assert touched.mean() == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize(("n", "k"), [(4, 2), (3, 1), (15, 3), (20, 5), (5, 5)])
def test_smaller_proposals(n, k):
    generator = EditCandidates(n, k)
    assert isinstance(generator, CandidateGenerator)
    ids, categories = generator.propose(history(np.arange(0, grammar.N_PROMPTS, 5501), turns=4))
    assert ids.shape == (82, n)
    assert len(generator.category_titles) == k
    assert (np.bincount(categories.ravel()) == 82 * n // k).all()
    assert all(len(set(row)) == n for row in ids.tolist())


@pytest.mark.parametrize(("n", "k"), [(26, 5), (30, 5), (0, 5), (25, 6), (25, 0)])
def test_numbers_that_cannot_be_shared_out(n, k):
    with pytest.raises(ValueError, match=r"n_categories must be in 1..5|n_candidates must be one of \[5, 10"):
        EditCandidates(n, k)


def test_the_word_budget_by_hand():
    # From 4 words with H = 5: 4 + 58/5 = 15.6, then + 46.4 * 2/5 = 34.16, + 27.84 * 3/5 = 50.864, ... and 62.
    budgets = word_budget(np.full(6, 4), np.arange(6), 5)
    np.testing.assert_allclose(budgets, [4, 15.6, 34.16, 50.864, 59.7728, 62])


@pytest.mark.parametrize(("turns", "horizon"), [([6], 5), ([-1], 5), ([0], 0)])
def test_the_word_budget_has_a_range(turns, horizon):
    with pytest.raises(ValueError, match="must be"):
        word_budget(np.array([4]), np.array(turns), horizon)
