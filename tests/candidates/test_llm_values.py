import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym.candidates.llm_parser import parse
from pasta_gym.candidates.llm_values import UnfinishedValueError, read_value


@pytest.mark.parametrize(
    ("answer", "prompts"),
    [
        ("{'Rephrasing': ['a fox's den', 'the foxes' den',], }", ["a fox's den", "the foxes' den"]),
        ("""{'Light': ["a fox's den", 'a "red" fox']}""", ["a fox's den", 'a "red" fox']),
        ('{"Light": ["a "red" fox", "a sign, \'no\'",]}', ['a "red" fox', "a sign, 'no'"]),
        (r"{'Light': ['a fox\'s den', 'd\u00e9j\u00e0 vu', 'a \ud83e\udd8a cub', 'a\nhare',]}",
         ["a fox's den", "déjà vu", "a 🦊 cub", "a hare"]),
        ("{'Light': ['a fox, [in] {braces}', 'a hare, ]']}", ["a fox, [in] {braces}", "a hare, ]"]),
        ("{'Light': ('a fox', 'a hare'), 'n': 2, 'score': -0.5, 'done': True, 'why': None,}", ["a fox", "a hare"]),
        ("{Light: ['a fox', 'a hare']}", ["a fox", "a hare"]),
        ("Note [1]. {'Light': ['a fox',]} {'Mood': ['a hare',]}", ["a fox", "a hare"]),
    ],
)  # fmt: skip
def test_what_is_meant_to_be_json_is_read(answer, prompts):
    assert [p for c in parse(answer, 5, 5, 20).categories for p in c.prompts] == prompts


@pytest.mark.parametrize(
    "answer",
    [
        "{'Light': ['a fox' 'a hare']}",  # one string to Python
        '["a "red", "blue" fox", "a hare"]',
        "{'Light': ['a fox', 'a hare'",
        "{'Light': ['a fox',, 'a hare']}",
        "{'Light': [__import__('os').getcwd(), 'a fox']}",
        "{'Light': ['a fox'] + ['a hare']}",
        "{'Light' ['a fox']}",
        "{'Light', 'a fox'}",
        "{'Light': ['a fox'}",
        "{'a fox",
        "{'Light': ['a fox\nhare', 'a dog']}",
        "{'Light': ['" + "a 'fox' b " * 1000 + "']}",
        "[" * 50 + "'a fox'" + "]" * 50,
    ],
)
def test_what_would_have_to_be_guessed_at_is_not(answer):
    with pytest.raises(ValueError, match=r" at \d+$| before \d+$"):
        read_value(answer, 0)


@pytest.mark.parametrize(
    ("answer", "so_far"),
    [
        ('{"Light": ["a fox", "a hare"], "Mood": ["a dog", "a c', {"Light": ["a fox", "a hare"], "Mood": ["a dog"]}),
        ('{"Light": ["a fox"], "Mood": [', {"Light": ["a fox"], "Mood": []}),
        ('{"Light": ["a fox"], "Mood"', {"Light": ["a fox"]}),
        ('{"Light": ["a fox"], "Mo', {"Light": ["a fox"]}),
        ('{"Light": ["a fox"], ', {"Light": ["a fox"]}),
        ('{"Light": ["a fox"],\n```\nEnjoy!', {"Light": ["a fox"]}),
        ('{"Light": ["a fox"\n```\nEnjoy!', {"Light": ["a fox"]}),
        ("[{'title': 'Light', 'prompts': ('a fox', 'a hare'", [{"title": "Light", "prompts": ["a fox"]}]),
        ("[{'title': 'Light', 'prompts': ('a fox', 'a hare',", [{"title": "Light", "prompts": ["a fox", "a hare"]}]),
        ("['a fox', 'a painter' ", ["a fox"]),  # of 'a painter's hare', perhaps
        ("[['a fox'], ['a hare', 'it\\", [["a fox"], ["a hare"]]),
        ("[", []),
    ],
)
def test_of_a_value_that_stops_what_is_whole_is_kept(answer, so_far):
    with pytest.raises(UnfinishedValueError, match="does not end before") as raised:
        read_value(answer, 0)
    assert raised.value.so_far == so_far
    assert answer[raised.value.end :].startswith("```") or raised.value.end == len(answer)


def test_json_is_read_as_json():
    value = {"a": [1, None, True, 0.5, "x" * 9000]}
    assert read_value(json.dumps(value), 0)[0] == value


def _as_written(value, quote, comma):
    if isinstance(value, str):
        return quote + value.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote
    items = [
        f"{_as_written(item, quote, comma)}: {_as_written(value[item], quote, comma)}"
        if isinstance(value, dict)
        else _as_written(item, quote, comma)
        for item in value
    ]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + ", ".join(items) + comma * bool(items) + closing


_strings = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
_values = st.recursive(
    _strings, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_strings, inner, max_size=4), max_leaves=20
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_values) | st.dictionaries(_strings, _values), st.sampled_from("\"'"), st.sampled_from(["", ",", " , "])
)
def test_values_are_read_as_they_were_written(value, quote, comma):
    written = _as_written(value, quote, comma)
    assert read_value(f"{written} and more", 0) == (value, len(written))
    assert read_value(repr(value), 0) == (value, len(repr(value)))


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([*"{}[]():,'\"\\ \nUux10", "'a'", '"b"', "None", "a: ", "\\ud83e"])).map("".join),
    st.sampled_from("{[("),
)
def test_any_text_is_a_value_or_no_value(text, bracket):
    try:
        value, end = read_value(bracket + text, 0)
    except ValueError:
        return
    assert isinstance(value, list | dict)
    assert (bracket + text)[end - 1] in "}])"
    assert sum(len(s) for s in _strings_of(value)) < end
    "".join(_strings_of(value)).encode()


def _strings_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value if isinstance(value, list) else [*value, *value.values()]:
            yield from _strings_of(item)
