from __future__ import annotations

import pytest

from agents.token_loading import SCRATCH_VALUE_TOKEN, scratch_tokenizer
from agents.token_template import Reader, opening, turn

SLATES = [["a cat, neon", "a cat at night"], ["a kitten", "a cat, neon"]]


@pytest.fixture(scope="module")
def reader():
    texts = ["a cat, neon at night kitten", *opening(""), *turn(["", ""], 0), "Candidate: 1 2"]
    return Reader(scratch_tokenizer(texts))


def text_of(pieces):
    return "".join(pieces)


def test_the_text_of_a_conversation():
    assert text_of([*opening("a cat"), *turn(SLATES[0], 1)]) == (
        "Initial prompt: a cat\n1. a cat, neon\n2. a cat at night\nChosen 2. a cat at night\n"
    )


def test_a_longer_history_begins_with_every_shorter_one(reader):
    whole = reader.history("a cat", SLATES, [1, 0])
    for n in range(2):
        shorter = reader.history("a cat", SLATES[:n], [1, 0][:n])
        assert whole[: len(shorter)] == shorter
        assert len(shorter) < len(whole)
    assert [token for part in reader.history_parts("a cat", SLATES, [1, 0]) for token in part] == whole


def test_tokens_are_the_words_and_the_start_token_is_there_once(reader):
    tokens = reader.tokenizer.convert_ids_to_tokens(reader.history("a cat", SLATES[:1], [0]))
    expected = "Initial prompt : a cat 1 . a cat , neon 2 . a cat at night Chosen 1 . a cat , neon"
    assert " ".join(tokens) == f"<bos> {expected}"
    assert reader.tokenizer.convert_ids_to_tokens(list(reader.lead)) == ["Candidate", ":"]
    assert reader.tokenizer.convert_ids_to_tokens(reader.prompt("a kitten")) == ["a", "kitten"]


def test_the_choice_and_the_order_of_the_slate_are_in_the_text(reader):
    histories = {
        tuple(reader.history("a cat", [slate], [choice])) for slate in (SLATES[0], SLATES[0][::-1]) for choice in (0, 1)
    }
    assert len(histories) == 4


def test_the_value_token_is_no_word_of_a_text(reader):
    assert reader.tokenizer.convert_ids_to_tokens([SCRATCH_VALUE_TOKEN]) == ["<value>"]
    assert SCRATCH_VALUE_TOKEN not in reader.prompt("a value of < value >")
    assert reader.padding == 0


@pytest.mark.parametrize("choice", [-1, 2])
def test_a_turn_needs_its_choice(choice):
    with pytest.raises(ValueError, match=rf"choice must be in 0\.\.1 for a turn that was played, got {choice}"):
        turn(SLATES[0], choice)


def test_an_empty_prompt_is_refused(reader):
    with pytest.raises(ValueError, match="at least one token, got '  '"):
        reader.prompt("  ")
