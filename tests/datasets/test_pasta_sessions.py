"""Rater sessions of unknown layout: read in every layout, and what is not certain is asked for."""

import copy
import itertools
import tracemalloc

import pyarrow as pa
import pytest

from pasta_gym.datasets import DatasetError
from pasta_gym.datasets.pasta_columns import ALIASES, NUMBERED, match_columns, normalised
from pasta_gym.datasets.pasta_sessions import PastaSessions
from tests.datasets.formats import picture, write_table
from tests.datasets.pasta_files import EXPECTED, numbered, pixels, read_back, rows_of, write_images, write_rows, zipped

WITHOUT_EXPANSIONS = [expected | {"prompts": [None, None]} for expected in EXPECTED]


def flat(rows):
    return [row | {"images": [image for column in row["images"] for image in column]} for row in rows]


def without(rows, *names):
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


@pytest.mark.parametrize("archive", ["folder", "zip"])
@pytest.mark.parametrize(
    ("layout", "storage", "kind"),
    [
        *(
            (layout, storage, "parquet")
            for layout in ("turns", "nested", "lists")
            for storage in ("bytes", "struct", "path")
        ),
        *(
            (layout, storage, kind)
            for layout in ("turns", "nested")
            for storage in ("path", "base64")
            for kind in ("json", "jsonl")
        ),
        ("lists", "base64", "jsonl"),
        ("turns", "path", "csv"),
        ("lists", "path", "csv"),
        ("turns", "base64", "csv"),
    ],
)
def test_every_layout_storage_format_and_container_gives_the_same_sessions(tmp_path, layout, storage, kind, archive):
    folder = tmp_path / "data"
    write_rows(folder / f"raters/sessions.{kind}", rows_of(layout, storage), kind)
    if storage == "path":
        write_images(folder)
    dataset = PastaSessions(folder if archive == "folder" else zipped(folder, tmp_path / "data.zip"))
    assert read_back(dataset) == EXPECTED
    assert read_back(dataset) == EXPECTED
    assert dataset.report.records == {"sessions": 6}
    assert (dataset.report.images, dataset.report.bad_images) == (192, 0)
    assert dataset.report.decisions[f"choices of raters/sessions.{kind}"] == (
        "counted from 0: 0..3 for 4 columns in 3 sessions"
    )
    assert list(dataset.comparisons()) == list(dataset.ratings()) == []


def test_a_single_file_is_an_archive_too(tmp_path):
    assert read_back(PastaSessions(write_rows(tmp_path / "a.parquet", rows_of("turns"), "parquet"))) == EXPECTED


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_columns_may_be_numbered(tmp_path, kind):
    write_images(tmp_path)
    write_rows(tmp_path / f"a.{kind}", [numbered(row) for row in rows_of("turns", "path")], kind)
    dataset = PastaSessions(tmp_path)
    assert read_back(dataset) == EXPECTED
    assert "images = image_0_0..image_3_3" in dataset.report.decisions[f"columns of a.{kind}"]
    assert "expansions = expansion_1..expansion_4" in dataset.report.decisions[f"columns of a.{kind}"]


def test_a_flat_list_of_images_is_cut_by_the_expansions_or_the_slate_size(tmp_path):
    rows = flat(rows_of("turns"))
    write_rows(tmp_path / "a.parquet", rows, "parquet")
    assert read_back(PastaSessions(tmp_path)) == EXPECTED
    write_rows(tmp_path / "a.parquet", without(rows, "prompt_expansions"), "parquet")
    assert read_back(PastaSessions(tmp_path)) == WITHOUT_EXPANSIONS
    two = PastaSessions(tmp_path, slate_size=8)
    next(two.sessions())
    assert two.report.decisions["slates of a.parquet"] == "8 columns of 2 images"
    with pytest.raises(DatasetError, match=r"expected 3 columns of images.*got 16 entries; slate_size says"):
        next(PastaSessions(tmp_path, slate_size=3).sessions())


def test_images_may_be_files_that_no_column_names(tmp_path):
    write_images(tmp_path)
    write_rows(tmp_path / "a.csv", without(rows_of("turns", "path"), "images"), "csv")
    with pytest.raises(DatasetError, match=r"a.csv: no column known as images; found session_id, "):
        PastaSessions(tmp_path)
    assert (
        read_back(PastaSessions(tmp_path, image_pattern="images/{session_id}/{turn}_{column}_{image}.jpg")) == EXPECTED
    )
    with pytest.raises(DatasetError, match=r"images are missing or broken(.|\n)*images/s0/1_1_4.jpg"):
        list(PastaSessions(tmp_path, image_pattern="images/{session_id}/{turn1}_{column1}_{image1}.jpg").sessions())


def test_patterns_may_count_from_one(tmp_path):
    for s, t, c, m in itertools.product(range(3), range(2), range(4), range(4)):
        path = tmp_path / f"s{s}-{t + 1}-{c + 1}-{m + 1}.jpg"
        path.write_bytes(pixels(s, t, c, m))
    write_rows(tmp_path / "a.csv", without(rows_of("turns", "path"), "images"), "csv")
    assert read_back(PastaSessions(tmp_path, image_pattern="{session_id}-{turn1}-{column1}-{image1}.jpg")) == EXPECTED


@pytest.mark.parametrize(
    "pattern", ["images/{session_id}/{turn}_{column}.jpg", "{session}/{turn}/{column}/{image}", "{"]
)
def test_patterns_are_checked(tmp_path, pattern):
    with pytest.raises(ValueError, match="image_pattern m"):
        PastaSessions(tmp_path, image_pattern=pattern)


@pytest.mark.parametrize("layout", ["turns", "nested", "lists"])
def test_choices_may_count_from_one(tmp_path, layout):
    write_rows(tmp_path / "a.parquet", rows_of(layout, base=1), "parquet")
    dataset = PastaSessions(tmp_path)
    assert read_back(dataset) == EXPECTED
    assert dataset.report.decisions["choices of a.parquet"].startswith("counted from 1: 1..4 for 4 columns")


def test_choices_that_could_count_from_either_are_asked_for(tmp_path):
    rows = [row | {"choice": 1 + i % 3} for i, row in enumerate(rows_of("turns"))]
    write_rows(tmp_path / "a.parquet", rows, "parquet")
    with pytest.raises(DatasetError, match=r"column choice: choices are 1\.\.3.*pass choice_base=0 or choice_base=1"):
        list(PastaSessions(tmp_path).sessions())
    assert [s["choices"] for s in read_back(PastaSessions(tmp_path, choice_base=1))] == [[0, 1], [2, 0], [1, 2]]
    assert [s["choices"] for s in read_back(PastaSessions(tmp_path, choice_base=0))] == [[1, 2], [3, 1], [2, 3]]


@pytest.mark.parametrize(("low", "high"), [(0, 4), (-1, 2), (2, 5)])
def test_choices_that_are_no_columns_are_refused(tmp_path, low, high):
    rows = rows_of("turns")
    rows[0]["choice"], rows[1]["choice"] = low, high
    write_rows(tmp_path / "a.parquet", rows, "parquet")
    with pytest.raises(DatasetError, match="are not 4 columns counted from 0 or from 1"):
        list(PastaSessions(tmp_path).sessions())


def test_turns_may_count_from_one_and_be_shuffled_within_a_session(tmp_path):
    rows = [row | {"turn": row["turn"] + 1} for row in rows_of("turns")]
    rows[0], rows[1] = rows[1], rows[0]
    write_rows(tmp_path / "a.parquet", rows, "parquet")
    assert read_back(PastaSessions(tmp_path)) == EXPECTED


def test_turns_that_begin_anywhere_else_are_refused(tmp_path):
    write_rows(tmp_path / "a.parquet", [row | {"turn": row["turn"] + 2} for row in rows_of("turns")], "parquet")
    with pytest.raises(DatasetError, match="column turn: turns begin at 2, expected 0 or 1"):
        next(PastaSessions(tmp_path).sessions())


def change(rows, index, **values):
    rows[index].update(values)
    return rows


TURNS = [
    (lambda rows: change(rows, 1, turn=2), "0", "turn", r"turns 0, 1, \.\.\. without gaps, got \[0, 2\]"),
    (lambda rows: change(rows, 1, turn=0), "0", "turn", r"got \[0, 0\]"),
    (lambda rows: change(rows, 3, initial_prompt="a dog"), "3", "initial_prompt", "'a dog' in a session that began"),
    (lambda rows: change(rows, 3, rater_id=9), "3", "rater_id", "9 in a session that began with 1"),
    (lambda rows: change(rows, 4, session_id="s0"), "4", "session_id", "session s0 is here again, after others"),
    (lambda rows: change(rows, 4, session_id=None), "4", "session_id", "expected the session's id, got nothing"),
    (lambda rows: [rows[0] | {"turn": t} for t in range(6)], "0", "session_id", "1 to 5 turns of session s0, got 6"),
    (lambda rows: change(rows, 2, choice=None), "2", "choice", "whole number, got nothing"),
    (lambda rows: change(rows, 2, images=[[b"x"] * 4] * 3), "2", None, "one prompt for each of 3 columns, got 4"),
    (lambda rows: change(rows, 2, images=None), "2", "images", "expected a list, got nothing"),
    (lambda rows: change(rows, 5, prompt_expansions=["a"]), "5", None, "one prompt for each of 4 columns, got 1"),
    (lambda rows: change(rows, 0, images=[[b"x"] * 3] * 4), "0", None, "of one size"),
    (
        *(lambda rows: change(change(rows, 2, images=[[b"x"] * 3] * 4), 3, images=[[b"x"] * 3] * 4), "2"),
        *("images", "a slate of 4 columns of 3 images, where others of the table have 4 columns of 4 images"),
    ),
    (lambda rows: change(rows, 2, images=[[b"x", None, b"x", b"x"]] * 4), "2", "images", "bytes or path, got nothing"),
]


@pytest.mark.parametrize(("broken", "row", "column", "message"), TURNS)
def test_what_makes_no_sense_names_file_row_and_column(tmp_path, broken, row, column, message):
    path = write_rows(tmp_path / "a.parquet", broken(copy.deepcopy(rows_of("turns"))), "parquet")
    with pytest.raises(DatasetError, match=message) as caught:
        list(PastaSessions(tmp_path, verify_images=False).sessions())
    assert caught.value.file == str(path)
    assert (str(caught.value.row), caught.value.column) == (row, column)


@pytest.mark.parametrize(
    ("layout", "values", "message"),
    [
        ("nested", {"turns": [3]}, "row 1, column turns: expected an object for each turn, got 3"),
        ("nested", {"turns": []}, "expected 1 to 5 turns of session s1, got 0"),
        ("nested", {"turns": None}, "row 1, column turns: expected a list, got nothing"),
        ("nested", {"session_id": "s0"}, "a second row of session s0, where a row is a session"),
        ("lists", {"images": [[["x"]]]}, "row 1, column images: expected one entry for each of 2 turns, got 1"),
        ("lists", {"choice": [0, "two"]}, "row 1, turn 1, column choice: expected a whole number, got 'two'"),
    ],
)
def test_rows_of_sessions_are_checked_too(tmp_path, layout, values, message):
    write_rows(tmp_path / "a.json", change(rows_of(layout, "path"), 1, **values), "json")
    with pytest.raises(DatasetError, match=message):
        list(PastaSessions(tmp_path, verify_images=False).sessions())


def test_nested_turns_must_be_in_order(tmp_path):
    rows = rows_of("nested", "path")
    rows[2]["turns"].reverse()
    write_rows(tmp_path / "a.jsonl", rows, "jsonl")
    with pytest.raises(DatasetError, match=r"row 2, column turns: expected turns in order from 0 or 1, got \[1, 0\]"):
        list(PastaSessions(tmp_path, verify_images=False).sessions())


def test_long_prompts_and_critiques_are_a_sign_of_the_wrong_column(tmp_path):
    long = " ".join(["word"] * 13)
    rows = [row | {"initial_prompt": f"{long} {row['session_id']}"} for row in rows_of("turns")]
    write_rows(tmp_path / "a.parquet", rows, "parquet")
    with pytest.raises(
        DatasetError, match="column initial_prompt: 3 of 3 have more than 12 words, so this is hardly the"
    ):
        list(PastaSessions(tmp_path).sessions())
    write_rows(tmp_path / "a.parquet", change(rows_of("turns"), 0, critique=long), "parquet")
    with pytest.raises(DatasetError, match="column critique: 1 of 2 have more than 12 words"):
        list(PastaSessions(tmp_path).sessions())


def test_one_long_prompt_in_a_hundred_is_a_raters_slip(tmp_path):
    rows = [
        {"session_id": s, "turn": 0, "prompt": "a cat", "choice": s % 2, "images": [["a"], ["b"]]} for s in range(100)
    ]
    rows[7]["prompt"] = " ".join(["word"] * 13)
    write_rows(tmp_path / "a.json", rows, "json")
    assert len(list(PastaSessions(tmp_path, verify_images=False).sessions())) == 100


def test_bad_images_take_their_session_with_them(tmp_path):
    rows = rows_of("turns")
    rows[2]["images"][1][2] = picture(1)[:-20]
    write_rows(tmp_path / "a.parquet", rows, "parquet")
    dataset = PastaSessions(tmp_path, max_bad_images=0.02)
    assert read_back(dataset) == [EXPECTED[0], EXPECTED[2]]
    assert dataset.report.skipped == {"bad image": 1}
    with pytest.raises(DatasetError, match=r"1 of 96 images(.|\n)*a.parquet:s1/0/1/2: "):
        list(PastaSessions(tmp_path).sessions())


def test_everything_optional(tmp_path):
    rows = [
        row
        | {
            "userType": 3,
            "is_simulated": True,
            "column_satisfaction": [1, 2, 3, 5],
            "turn_satisfaction": 4,
            "than_before": [None, "Better"][row["turn"]],
            "initial_images": [picture(1), picture(2)],
        }
        for row in rows_of("turns")
    ]
    write_rows(tmp_path / "a.parquet", rows, "parquet")
    session = next(PastaSessions(tmp_path).sessions())
    assert (session.user_type, session.is_simulated) == (3, True)
    assert [turn.satisfactions for turn in session.turns] == [(0.0, 0.25, 0.5, 1.0)] * 2
    assert [turn.satisfaction for turn in session.turns] == [0.75, 0.75]
    assert [turn.versus_previous for turn in session.turns] == [None, "better"]
    assert [image.read() for image in session.initial_images] == [picture(1), picture(2)]


def test_not_a_number_is_nothing(tmp_path):
    nothing = {
        "rater_id": float("nan"),
        "user_type": float("nan"),
        "turn_satisfaction": float("nan"),
        "critique": float("nan"),
    }
    write_rows(tmp_path / "a.json", [row | nothing for row in rows_of("turns", "base64")], "json")
    session = next(PastaSessions(tmp_path).sessions())
    assert (session.rater, session.user_type, session.turns[0].satisfaction) == (None, None, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"column_satisfaction": [0, 2, 3, 5]}, "satisfactions from 1 to 5"),
        ({"turn_satisfaction": 6}, "a number from 1 to 5, got 6"),
        ({"than_before": "nicer"}, "better, same, worse or nothing, got 'nicer'"),
        ({"is_simulated": "maybe"}, "true or false, got 'maybe'"),
    ],
)
def test_optional_values_are_checked(tmp_path, values, message):
    write_rows(tmp_path / "a.json", [row | values for row in rows_of("turns", "path")], "json")
    with pytest.raises(DatasetError, match=message):
        list(PastaSessions(tmp_path, verify_images=False).sessions())


def test_cells_of_text_are_read_as_what_they_are(tmp_path):
    rows = [
        numbered(row)
        | {"is_simulated": "True", "satisfaction_1": 1, "satisfaction_2": 2, "satisfaction_3": 3, "satisfaction_4": 5}
        for row in rows_of("turns", "path")
    ]
    write_rows(tmp_path / "a.csv", rows, "csv")
    session = next(PastaSessions(tmp_path, verify_images=False).sessions())
    assert session.is_simulated
    assert session.turns[0].satisfactions == (0.0, 0.25, 0.5, 1.0)


def test_several_tables_shards_simulated_ones_and_others(tmp_path):
    rows = rows_of("turns")
    write_rows(tmp_path / "human/part-0.parquet", rows[2:4], "parquet")
    write_rows(tmp_path / "human/part-1.parquet", rows[:2] + rows[4:], "parquet")
    write_rows(tmp_path / "simulated.jsonl", without(rows_of("nested", "base64"), "rater_id"), "jsonl")
    write_rows(tmp_path / "raters.csv", [{"rater": 1, "age": 30}], "csv")
    (tmp_path / "README.md").write_text("Attribution\n")
    dataset = PastaSessions(tmp_path)
    assert [(s.prompt, s.rater, s.is_simulated) for s in dataset.sessions()] == [
        *((f"a cat {i}", str(i % 2), False) for i in (1, 0, 2)),
        *((f"a cat {i}", None, True) for i in range(3)),
    ]
    decisions = dataset.report.decisions
    # The choices of the first shard, 1..2, would not tell where counting begins.
    assert decisions["choices of human/part-0.parquet and 1 more"].startswith("counted from 0: 0..3")
    assert decisions["sessions of simulated.jsonl"] == (
        "simulated, by the name of the file; no rater ids: each session is its own rater"
    )
    assert decisions["not read: raters.csv"].endswith(
        "no column known as session_id, initial_prompt, choice, images; found rater, age"
    )
    assert len(list(PastaSessions(tmp_path, tables=["human/*"]).sessions())) == 3
    assert len(list(PastaSessions(tmp_path, tables="simulated*").sessions())) == 3


def test_simulated_tables_of_the_same_columns_are_kept_apart(tmp_path):
    for name in ("human", "simulated"):
        write_rows(tmp_path / f"{name}.parquet", rows_of("turns"), "parquet")
    dataset = PastaSessions(tmp_path)
    assert [session.is_simulated for session in dataset.sessions()] == [False] * 3 + [True] * 3
    assert {"sessions of human.parquet", "sessions of simulated.parquet"} <= set(dataset.report.decisions)


def test_the_same_path_beside_two_tables_is_two_pictures(tmp_path):
    for name in ("human", "simulated"):
        write_rows(tmp_path / name / "turns.parquet", rows_of("turns", "path"), "parquet")
        write_images(tmp_path / name)
    changed = next((tmp_path / "simulated").rglob("*.jpg"), None) or next((tmp_path / "simulated").rglob("*.png"))
    sessions = list(PastaSessions(tmp_path).sessions())
    images = [image for s in sessions for turn in s.turns for column in turn.images for image in column]
    assert len({image.key for image in images}) == len(images)
    assert changed.relative_to(tmp_path).as_posix() in {image.key for image in images}


def test_a_table_without_sessions_lists_what_is_missing_and_what_is_there(tmp_path):
    write_rows(tmp_path / "a.parquet", without(rows_of("turns"), "choice", "images"), "parquet")
    write_rows(tmp_path / "b.csv", [{"x": 1, "y": 2}], "csv")
    (tmp_path / "c.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DatasetError) as caught:
        PastaSessions(tmp_path)
    message = str(caught.value)
    assert "a.parquet: no column known as choice, images; found session_id, rater_id, initial_prompt, turn" in message
    assert "b.csv: no column known as session_id, initial_prompt, choice, images; found x, y" in message
    assert "c.h5: hdf5: not read by this loader; convert it" in message
    assert "columns={field: column}" in message


def test_unknown_names_can_be_given_and_two_candidates_must_be(tmp_path):
    renamed = {"session_id": "sid", "initial_prompt": "q", "choice": "best", "images": "imgs", "turn": "k"}
    rows = [{renamed.get(key, key): value for key, value in row.items()} for row in rows_of("turns")]
    write_rows(tmp_path / "a.parquet", rows, "parquet")
    with pytest.raises(DatasetError, match="no column known as session_id, initial_prompt, choice, images; found sid"):
        PastaSessions(tmp_path)
    assert read_back(PastaSessions(tmp_path, columns=renamed)) == EXPECTED
    with pytest.raises(DatasetError, match="no column 'nope' for critique; found sid, rater_id"):
        PastaSessions(tmp_path, columns=renamed | {"critique": "nope"})
    with pytest.raises(ValueError, match="columns has no field 'mood'; the fields are session_id"):
        PastaSessions(tmp_path, columns={"mood": "sid"})
    write_rows(tmp_path / "a.parquet", [row | {"user_id": 7} for row in rows_of("turns")], "parquet")
    with pytest.raises(
        DatasetError, match=r"rater_id and user_id could both be rater_id; say which with columns=\{'rater_id'"
    ):
        PastaSessions(tmp_path)
    assert next(PastaSessions(tmp_path, columns={"rater_id": "user_id"}).sessions()).rater == "7"


def test_keys_inside_turns_can_be_given(tmp_path):
    rows = rows_of("nested")
    for row in rows:
        for turn in row["turns"]:
            turn["best"] = turn.pop("choice")
    write_rows(tmp_path / "a.parquet", rows, "parquet")
    with pytest.raises(DatasetError, match="no column known as choice; found turn, prompt_expansions, images"):
        PastaSessions(tmp_path)
    assert read_back(PastaSessions(tmp_path, columns={"choice": "best"})) == EXPECTED


def test_pictures_stay_unread_in_the_first_reading(tmp_path, monkeypatch):
    from pasta_gym.datasets import tables

    write_rows(tmp_path / "a.parquet", rows_of("turns"), "parquet")
    asked = []
    real = tables.parquet_rows
    monkeypatch.setattr(
        tables, "parquet_rows", lambda s, columns, **options: asked.append(set(columns)) or real(s, columns, **options)
    )
    list(PastaSessions(tmp_path).sessions())
    assert {"session_id", "initial_prompt", "turn", "choice", "critique"} in asked


def test_sessions_are_streamed(tmp_path):
    """16 MB of pictures in a fraction of that."""
    blob = bytes(100_000)
    rows = [
        {"session_id": s, "turn": 0, "prompt": "a cat", "choice": s % 2, "images": [[b"%d" % s + blob], [blob]]}
        for s in range(80)
    ]
    write_table(tmp_path / "a.parquet", rows, row_group_size=2, compression="none")
    del rows
    dataset = PastaSessions(tmp_path, verify_images=False)
    tracemalloc.start()
    before, arrow_peak = pa.total_allocated_bytes(), 0
    for number, session in enumerate(dataset.sessions()):
        assert session.turns[0].images[0][0].read().startswith(b"%d\0" % number)
        arrow_peak = max(arrow_peak, pa.total_allocated_bytes() - before)
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Eight rows at a time are 1.6 MB, and for a moment the last ones are still there beside the next.
    assert python_peak < 6_000_000
    assert arrow_peak < 6_000_000


def test_no_name_belongs_to_two_fields():
    names = [name for names in ALIASES.values() for name in names]
    assert len(names) == len(set(names))
    assert all(normalised(name) == name for name in names)
    assert set(NUMBERED) <= set(ALIASES)


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("initialPrompt", "initial_prompt"),
        ("Initial prompt", "initial_prompt"),
        ("SESSION-ID", "session_id"),
        ("turn", "turn"),
    ],
)
def test_spellings_of_a_name(column, name):
    assert normalised(column) == name
    assert match_columns([column], {}).by_field == {next(f for f, names in ALIASES.items() if name in names): column}


@pytest.mark.parametrize("gap", ["image_2_3", "image_0_0"])
def test_numbered_columns_with_a_gap_are_not_taken(gap):
    names = [f"image_{c}_{m}" for c in range(4) for m in range(4)]
    assert match_columns(names, {}).by_field == {"images": "image_0_0..image_3_3"}
    assert match_columns([name for name in names if name != gap], {}).by_field == {}
