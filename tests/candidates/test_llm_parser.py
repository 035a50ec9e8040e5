import importlib.util
import json
import pathlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta_gym.candidates.llm_fallback import completed
from pasta_gym.candidates.llm_grid import Grid, sameness
from pasta_gym.candidates.llm_lines import clean_prompt, clean_title, without_thoughts
from pasta_gym.candidates.llm_parser import Category, Parsed, parse
from pasta_gym.candidates.llm_prompt import ConversationText
from pasta_gym.candidates.llm_words import CHARACTERS_PER_WORD, count_words, cut_at_clause, cut_words
from pasta_gym.prompt_books import normalise

_spec = importlib.util.spec_from_file_location("answers", pathlib.Path(__file__).with_name("answers.py"))
answers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(answers)

TITLES = ("Warm light", "Places", "Styles", "Framing", "Rephrased")
GRID = [
    (title, [f"a fox {where} {how}" for how in ("at noon", "in fog", "by night", "seen low", "up close")])
    for title, where in zip(TITLES, ("glowing", "abroad", "in ink", "centred", "anew"), strict=True)
]


def as_grid(parsed):
    return [(c.title, list(c.prompts)) for c in parsed.categories]


# What models really write


@pytest.mark.parametrize("layout", answers.LAYOUTS)
def test_every_layout_is_read_word_for_word(layout):
    grid = Grid.empty(5, 5).filled(parse(answers.LAYOUTS[layout](GRID), 5, 5, 20))
    assert [list(row) for row in grid.prompts] == [prompts for _, prompts in GRID]
    if layout not in answers.WITHOUT_TITLES:
        assert grid.titles == TITLES


@pytest.mark.parametrize(
    ("written", "prompt"),
    [
        ('"a fox, in fog",', "a fox, in fog"),
        ("**Golden hour:** a fox at dawn", "a fox at dawn"),
        ("**A fox** at dawn", "A fox at dawn"),
        ("1. **Prompt 2:** “a fox”", "a fox"),
        ("*a fox*", "a fox"),
        ("a fox (~11 words)", "a fox"),
        ("ein Fuchs im Nebel, «Öl auf Leinwand»", "ein Fuchs im Nebel, «Öl auf Leinwand»"),
        ("a ** fox", "a fox"),
        ("雾中的狐狸", "雾中的狐狸"),
        ("a 35mm photo, f/1.4, 16:9", "a 35mm photo, f/1.4, 16:9"),
        ("a fox\u202e\u200b\x00 here<|im_end|>", "a fox here"),
        ("a [INST] fox </s>", "a fox"),
        ("12345 !!", ""),
        ("<new_prompt_candidate_1>", ""),
        ("...", ""),
    ],
)
def test_an_item_is_cleaned(written, prompt):
    assert clean_prompt(written) == prompt


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("a<think>b</think>c<thinking>d</thinking>e", "ace"),
        ("b</think>c", "c"),
        ("b</THINKING> c</think>d", "d"),
        ("a<think>b</think>c</think>d", "d"),
        ("a[THINK]b", "a"),
        ("b[/think]c<think>d", "c"),
        ("a <thinker> b", "a <thinker> b"),
    ],
)
def test_thoughts_are_no_part_of_an_answer(answer, kept):
    assert without_thoughts(answer) == kept


def test_titles_lose_their_numbers_marks_and_length():
    assert clean_title("**Category 3: Moody light:**") == "Moody light"
    assert clean_title("<Setting>") == "Setting"
    assert len(clean_title("x" * 500)) == 80


@pytest.mark.parametrize(
    "answer", ["", "I'm sorry, I cannot help with that.", "```", "[" * 5000, "{}", "* a\n* b", "|a:\n"]
)
def test_an_answer_without_lists_has_no_prompts_and_says_so(answer):
    parsed = parse(answer, 5, 5, 20)
    assert sum(len(c.prompts) for c in parsed.categories) <= 2
    assert Grid.empty(5, 5).filled(parsed).n_prompts <= 2


def test_a_cut_answer_loses_the_prompt_it_stops_in():
    answer = "* Light\n- a fox at dawn\n- a fox at du"
    assert as_grid(parse(answer, 5, 5, 20, is_truncated=True)) == [("Light", ["a fox at dawn"])]
    assert as_grid(parse(answer, 5, 5, 20)) == [("Light", ["a fox at dawn", "a fox at du"])]


@pytest.mark.parametrize("layout", ["object", "records", "Python", "JSON lines", "rows", "Python's lines"])
@given(data=st.data())
def test_a_cut_list_keeps_every_prompt_that_had_ended(layout, data):
    grid = [(f"Kind {i}", [f"a fox at place {i}{j}" for j in "vwxyz"]) for i in range(5)]
    whole = answers.LAYOUTS[layout](grid)
    if layout in {"object", "records"}:
        whole = " ".join(whole.split())  # on one line: lines have readings of their own
    cut = whole[: data.draw(st.integers(whole.index("Kind 0") + 8, len(whole)))]
    sure = cut.rstrip()[:-1]  # a quote at the very end may be one inside the prompt
    ended = [p for _, ps in grid for p in ps if f"{p}'" in sure or f'{p}"' in sure]
    for is_truncated in (True, False):
        found = [p for c in parse(cut, 5, 5, 20, is_truncated=is_truncated).categories for p in c.prompts]
        assert found == ended


@pytest.mark.parametrize("order", [("title", "description", "prompts"), ("Title", "why", "prompts")])
def test_no_cut_makes_a_prompt_of_what_is_said_about_a_category(order):
    title, said, of = order
    prompts = [[f"a fox {i}{j}" for j in "vwx"] for i in range(3)]
    whole = json.dumps([{title: f"Kind {i}", said: "warm colours of autumn", of: prompts[i]} for i in range(3)])
    for end in range(20, len(whole)):
        found = [p for c in parse(whole[:end], 3, 3, 20, is_truncated=True).categories for p in c.prompts]
        assert set(found) <= {p for row in prompts for p in row}, whole[:end]


@pytest.mark.parametrize(
    ("answer", "prompts"),
    [
        ('{"Light": {"1": "a cat", "2": "b cat"}, "Mood": {"1": "c cat", "2": "d ca', ["a cat", "b cat", "c cat"]),
        ('{"prompt_1": "a cat", "prompt_2": "b cat", "prompt_3": "c ca', ["a cat", "b cat"]),
        (
            '{\n"Light": {\n"1": "a cat",\n "2": "b cat"},\n"Mood": {\n "1": "c cat",\n "2": "d ca',
            ["a cat", "b cat", "c cat"],
        ),
    ],
)
def test_numbered_prompts_of_a_cut_object_are_kept_and_the_half_one_is_not(answer, prompts):
    assert [p for c in parse(answer, 2, 2, 20, is_truncated=True).categories for p in c.prompts] == prompts


def test_a_row_that_stops_before_its_category_is_of_the_last_one():
    rows = [{"prompt": f"{colour} fox", "category": "Light"} for colour in ("red", "blue", "dim")]
    found = parse(json.dumps(rows).rpartition("Li")[0], 5, 5, 20, is_truncated=True)
    assert found.categories == (Category("Light", ("red fox", "blue fox", "dim fox")),)


@pytest.mark.parametrize("aside", ['{tags: ["noir"]}', "{'tags': ['noir']}", '{"tags": ["noir"]}'])
def test_something_small_in_brackets_is_not_the_answer(aside):
    answer = f"1. a cat {aside}\n2. b cat\n3. c cat\n4. d cat"
    found = [p for c in parse(answer, 2, 2, 20).categories for p in c.prompts]
    assert [p.split(" {")[0] for p in found] == ["a cat", "b cat", "c cat", "d cat"]


def test_what_stands_after_a_value_without_an_end_is_read_too():
    answer = "\n".join(f'```json\n{{"{t}": ["a fox {t}", "a hare {t}"]\n```' for t in ("Light", "Mood", "Place"))
    found = [p for c in parse(answer, 5, 5, 20).categories for p in c.prompts]
    assert found == [f"a {animal} {t}" for t in ("Light", "Mood", "Place") for animal in ("fox", "hare")]


def test_a_prompt_over_the_budget_is_cut_at_a_clause_or_dropped():
    answer = (
        "* Light\n- a fox in fog, with very soft light\n- one two three four five six seven\n- a fox, b c d e f g h"
    )
    parsed = parse(answer, 1, 5, 6)
    assert as_grid(parsed) == [("Light", ["a fox in fog"])]
    assert parsed.problems == (
        "cut a prompt of 8 words, 6 are allowed",
        "dropped a prompt of 7 words, 6 are allowed",
        "dropped a prompt of 9 words, 6 are allowed",
    )


def test_wrapped_lines_belong_to_their_item_and_talk_does_not():
    answer = "* Light\n- a fox in\n  deep fog\n- a hare\nThese two are calm."
    assert as_grid(parse(answer, 1, 2, 20)) == [("Light", ["a fox in deep fog", "a hare"])]


def test_an_emphasised_prompt_under_its_label_is_no_note():
    answer = "* Light\n1. **Prompt 1:**\n   *a fox in fog*\n2. **Prompt 2:**\n   *a hare*"
    assert as_grid(parse(answer, 1, 2, 20)) == [("Light", ["a fox in fog", "a hare"])]


def test_a_whole_answer_on_one_line_is_no_prompt():
    answer = " ".join(f"* {title} - " + " - ".join(prompts) for title, prompts in GRID)
    parsed = parse(answer, 5, 5, 62)
    assert parsed.categories == ()
    assert parsed.problems[0].startswith("several items on one line in 'Warm light - a fox glowing at noon - a fox")
    dashed = "\n".join(
        line for title, prompts in GRID for line in (f"* {title}", *(f"- {p} - in ink - at dawn" for p in prompts))
    )
    assert as_grid(parse(dashed, 5, 5, 62)) == [
        (t, [f"{p} - in ink - at dawn" for p in prompts]) for t, prompts in GRID
    ]
    assert as_grid(parse("* Light\n- a fox - in ink\n- a hare", 1, 2, 20)) == [("Light", ["a fox - in ink", "a hare"])]
    flat = json.dumps([f"{p} - in ink - at dawn" for _, prompts in GRID for p in prompts])
    assert len(parse(flat, 5, 5, 20).categories) == 5
    assert as_grid(parse('{"Light": ["a fox - in ink - at dawn"]}', 1, 1, 20)) == [
        ("Light", ["a fox - in ink - at dawn"])
    ]


def test_a_break_in_a_cell_ends_no_row():
    answer = "| Category | Prompt |\n|---|---|\n| Light | a fox<br>in fog |\n| Place | a hare |"
    assert as_grid(parse(answer, 2, 1, 20)) == [("Light", ["a fox in fog"]), ("Place", ["a hare"])]


def test_a_few_semicolons_make_no_category():
    for answer in ("* Light\n- a fox: red; in fog", "1. Style: oil; canvas\n2. a hare; asleep"):
        prompts = [p for c in parse(answer, 5, 5, 20).categories for p in c.prompts]
        assert prompts[-1] in {"a fox: red; in fog", "a hare; asleep"}


def test_json_after_the_talk_that_follows_an_answer_is_no_answer():
    answer = '{"Light": ["a fox"]}\n{"Place": ["a hare"]}\nI left out {"Mood": ["a dog"]}'
    assert as_grid(parse(answer, 5, 5, 20)) == [("Light", ["a fox"]), ("Place", ["a hare"])]


# The grid


def test_surplus_goes_and_the_fullest_categories_stay():
    parsed = Parsed((Category("thin", ("a",)), Category("A", ("b", "c", "d")), Category("B", ("e", "f"))))
    assert Grid.empty(2, 2).filled(parsed).prompts == (("b", "c"), ("e", "f"))


def test_like_prompts_count_once_and_the_chosen_one_never():
    parsed = Parsed((Category("A", ("A fox.", "a  fox", "the chosen", "a hare")),))
    grid = Grid.empty(1, 3).filled(parsed, exclude=["The Chosen!"])
    assert grid.prompts == (("A fox.", "a hare"),)
    assert not grid.is_full


def test_a_second_answer_fills_the_rows_of_its_titles():
    first = Parsed((Category("Light", ("a",)), Category("Place", ("b", "c"))))
    second = Parsed((Category("Mood", ("x", "y")), Category("LIGHT", ("d", "e"))))
    grid = Grid.empty(3, 2).filled(first).filled(second)
    assert grid.titles == ("Light", "Place", "Mood")
    assert grid.prompts == (("a", "d"), ("b", "c"), ("x", "y"))
    assert grid.is_full


def test_a_category_that_rephrases_goes_last_wherever_it_stood():
    parsed = Parsed((Category("Rephrasings", ("a",)), Category("Light", ("b",)), Category("Place", ("c",))))
    assert Grid.empty(3, 1).filled(parsed).titles == ("Light", "Place", "Rephrasings")


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a fox in fog", 4),
        ("  a\tfox \n", 2),
        ("雾中的狐狸。", 5),
        ("a 狐狸 here", 4),
        ("สวัสดี", 2),
        ("여우 한 마리", 3),
        ("a - b", 3),
        ("x" * 30, 1),
        ("x" * 31, 2),
        ("", 0),
    ],
)
def test_words_are_counted_in_any_script(text, words):
    assert count_words(text) == words


def test_cutting():
    assert cut_words("a fox in fog", 2) == "a fox"
    assert cut_words("狐狸在雾中", 3) == "狐狸在"
    assert cut_words("a fox", 0) == ""
    assert cut_at_clause("a fox in fog, at dawn, far away", 6) == "a fox in fog, at dawn"
    assert cut_at_clause("a fox, one two three four", 6) is None
    assert cut_at_clause("f 1.4 at 16:9 six seven", 4) is None
    assert cut_at_clause("雾中的狐狸\uff0c在黎明时分的森林里", 8) == "雾中的狐狸"


@settings(max_examples=100, deadline=None)
@given(st.text(), st.integers(0, 20))
def test_a_cut_text_begins_the_text_and_fits(text, n):
    cut = cut_words(text, n)
    assert count_words(cut) <= n
    assert " ".join(text.split()).startswith(cut)
    assert len(cut) <= (CHARACTERS_PER_WORD + 1) * max(n, 1) * 2


# Laws for anything a model may answer

WORDS = [
    "a",
    "fox",
    "in",
    "deep",
    "fog,",
    "at",
    "dawn;",
    "glowing",
    "狐",
    "softly",
    "réal",
    "лиса",
    "—",
    "<b>",
    "**",
    "__",
    "1.",
    "...",
]
MARKS = [
    "* ",
    "- ",
    "\n",
    "\n\n",
    "**",
    "1. ",
    "2) ",
    "Category 2: ",
    "#",
    "```",
    '"',
    "{",
    "[",
    "]",
    "}",
    ":",
    ",",
    "|",
]
MARKS += [
    "'",
    "', '",
    "['",
    "',]",
    "(",
    "),",
    "{a: ",
    "\\u12",
    "a fox",
    "fog",
    "狐狸",
    "<think>",
    "</think>",
    "[/THINK]",
    "\u2028",
    "\ud83d",
    "\\",
]
_sentences = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)
_prompts = st.one_of(_sentences, st.text(max_size=80), st.just("an old dream"))
_grids = st.lists(st.tuples(st.text(max_size=20), st.lists(_prompts, max_size=5)), max_size=8)
_written = st.builds(
    lambda layout, grid: answers.LAYOUTS[layout](grid), st.sampled_from(sorted(answers.LAYOUTS)), _grids
)
_marks = st.lists(st.sampled_from(MARKS), max_size=120).map("".join)
_answers = st.one_of(_written, _marks, st.text())
_shapes = st.sampled_from([(5, 5), (1, 1), (2, 3)])
LONGEST_WORD = "hyper-realistic-cinematic-look"  # 30 characters: a comma makes two words of it
_initial = st.sampled_from(
    ["an old dream", "x", "狐狸", "- * 1. \u00a0'", f"a cat {LONGEST_WORD}", LONGEST_WORD, f"{LONGEST_WORD} " * 2]
)


def assert_whole(grid, n_categories, n_per_category, max_words, chosen):
    prompts = [prompt for row in grid.prompts for prompt in row]
    assert [len(row) for row in grid.prompts] == [n_per_category] * n_categories
    assert len({sameness(p) for p in prompts} | {sameness(chosen)}) == len(prompts) + 1
    assert all(1 <= count_words(p) <= max_words for p in prompts)
    assert all(p == normalise(p) for p in prompts)
    assert len({normalise(p) for p in prompts}) == len(prompts)


@settings(max_examples=500, deadline=None)
@given(_answers, _shapes, st.integers(1, 62), _initial, st.booleans(), st.integers(0, 2**64 - 1))
def test_any_answer_gives_a_whole_grid(answer, shape, max_words, chosen, is_truncated, key):
    conversation = ConversationText(chosen, max_words, 5)
    parsed = parse(answer, *shape, max_words, is_truncated=is_truncated)
    for category in parsed.categories:
        assert category.prompts
        assert all(1 <= count_words(p) <= max_words for p in category.prompts)
        assert all(len(p) <= (CHARACTERS_PER_WORD + 1) * max_words * 2 for p in category.prompts)
        assert all(p == normalise(p) for p in category.prompts)
        assert not set("\n\r\u2028") & set("".join(category.prompts) + category.title)
    grid = Grid.empty(*shape).filled(parsed, exclude=[chosen])
    assert_whole(completed(grid, conversation, key), *shape, max_words, chosen)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(answers.LAYOUTS)), st.lists(st.integers(0, 10**9), min_size=25, max_size=25, unique=True),
       st.integers(0, 24))  # fmt: skip
def test_well_formed_answers_are_never_asked_again(layout, numbers, long):
    words = ["amber", "birch", "copper", "delta", "ember", "fjord", "grove", "heath", "islet", "jetty"]
    prompts = ["the fox " + " ".join(words[int(c)] for c in str(n)) for n in numbers]
    prompts[long] += ", with much light" * 2
    grid = [(title, prompts[5 * k : 5 * k + 5]) for k, title in enumerate(TITLES)]
    found = Grid.empty(5, 5).filled(parse(answers.LAYOUTS[layout](grid), 5, 5, 62))
    assert [p for row in found.prompts for p in row] == prompts


def test_a_comma_that_makes_a_word_longer_counts_too():
    grid = completed(Grid.empty(5, 5), ConversationText(f"a cat {LONGEST_WORD}", 4, 5), 1)
    assert_whole(grid, 5, 5, 4, f"a cat {LONGEST_WORD}")
    # The word goes as a whole: the beginning before it fits.
    assert any(p.startswith("a cat, ") for row in grid.prompts for p in row)


@pytest.mark.parametrize("max_words", [1, 2, 3, 62])
@pytest.mark.parametrize("chosen", ["moonlight", "a fox, misty", "狐狸", LONGEST_WORD])
def test_the_rules_have_sixty_prompts_for_the_tightest_budget(max_words, chosen):
    grids = [completed(Grid.empty(6, 10), ConversationText(chosen, max_words, 5), key) for key in (1, 1, 2)]
    assert_whole(grids[0], 6, 10, max_words, chosen)
    assert grids[0] == grids[1] != grids[2]


ENDLESS = (
    "* ",
    "[] ",
    '{"a":["b"]}\n',
    "a; ",
    "```",
    "<think>",
    "</think>",
    "[THINK]a[/THINK]",
    "a, ",
    "- a, b\n",
    "**a",
    "[",
    "<br>",
    "<br> - a",
    "\n*a*",
    '{"a":[',
    "{'a': ['b',],}\n",
    "['a', ",
    "'a', ",
    "['",
    "{'",
    "('a'",
    "[' ",
    "['a' ",
    "[{",
    "\\'",
    "x",
    "\n",
    "- **a: ",
    '"',
    "|",
    "1. a ",
    "<a",
    "a:\n\n",
    "狐",
    "_a_ ",
)


@pytest.mark.parametrize("piece", ENDLESS)
def test_a_model_that_does_not_stop_is_read_in_a_moment(piece):
    begin = time.process_time()
    parse("- a fox " + piece * (120_000 // len(piece)), 5, 5, 20)
    assert time.process_time() - begin < 5
