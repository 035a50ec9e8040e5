"""The records say what they refuse, and refuse what a model could not learn from."""

import pytest

from pasta_gym.datasets import Comparison, DatasetError, Image, LoadReport, Rating, Session, Turn


def image(key="a"):
    return Image(key, lambda: b"")


def turn(**changes):
    given = {"images": ((image(), image()), (image(), image())), "choice": 1}
    return Turn(**(given | changes))


def test_an_error_says_where():
    error = DatasetError("no such thing", file="train.parquet", row=7, column="label_0")
    assert str(error) == "train.parquet, row 7, column label_0: no such thing"
    assert (error.file, error.row, error.column) == ("train.parquet", 7, "label_0")
    assert isinstance(error, ValueError)
    assert str(DatasetError("nothing there")) == "nothing there"
    assert str(DatasetError("cut short", file="a.json")) == "a.json: cut short"


def test_images_are_equal_by_key():
    assert image("a") == image("a") != image("b")
    assert len({image("a"), image("a"), image("b")}) == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Image("", lambda: b""), "an image's key must be text"),
        (lambda: Comparison(None, "p", (image(),), (0.0,)), "2 images or more, got 1"),
        (lambda: Comparison(None, "p", (image(), image()), (0.0,)), "one rank an image, got 1 for 2"),
        (lambda: Comparison(None, "p", (image(), image()), (0.0, float("nan"))), "finite"),
        (lambda: Comparison(None, " ", (image(), image()), (0.0, 1.0)), "a prompt must be text"),
        (lambda: Comparison("", "p", (image(), image()), (0.0, 1.0)), "a rater's id"),
        (lambda: Rating("r", "p", image(), 1.01), r"must lie in \[0, 1\].*got 1.01"),
        (lambda: Rating("r", "p", image(), float("nan")), "got nan"),
        (lambda: turn(choice=2), r"0\.\.1, got 2"),
        (lambda: turn(choice=-1), r"0\.\.1, got -1"),
        (lambda: turn(images=()), "one column or more"),
        (lambda: turn(images=((), ())), "one column or more"),
        (lambda: turn(images=((image(),), (image(), image()))), r"got \[1, 2\]"),
        (lambda: turn(prompts=("p",)), "one prompt for each of 2 columns, got 1"),
        (lambda: turn(satisfactions=(0.5, 0.5, 0.5)), "one satisfaction for each of 2 columns, got 3"),
        (lambda: turn(satisfactions=(0.5, 4.0)), "a column's satisfaction"),
        (lambda: turn(satisfaction=-0.1), "a turn's satisfaction"),
        (lambda: turn(versus_previous="nicer"), "better, same, worse, got 'nicer'"),
        (lambda: Session("r", "p", ()), "at least one turn"),
        (lambda: Session("r", "p", (turn(), turn(images=((image(),),), choice=0))), "of one size"),
        (lambda: Session("r", "p", (turn(),), user_type=-1), "user_type"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_whole_session_is_accepted():
    full = turn(prompts=("a", "b"), satisfactions=(0.0, 1.0), satisfaction=0.5, versus_previous="same", critique="no")
    session = Session("r", "p", (full, turn()), user_type=3, is_simulated=True)
    assert session.turns[0].choice == 1


def test_what_nobody_said_is_none():
    unsaid = turn(choice=None, satisfactions=(None, 1.0))
    assert (unsaid.choice, unsaid.satisfactions) == (None, (None, 1.0))


def test_a_report_adds_up_reads_well_and_starts_anew():
    report = LoadReport()
    assert str(report) == "nothing read yet"
    report.records["comparisons"] += 2
    report.skipped["no label"] += 1
    report.images, report.bad_images = 10, 1
    report.first_bad_images.append("a.png: cut short")
    report.decisions["choice"] = "counted from 1"
    assert str(report).splitlines() == [
        "comparisons: 2",
        "skipped, no label: 1",
        "bad images: 1 of 10",
        "  a.png: cut short",
        "choice: counted from 1",
    ]
    report.clear()
    assert str(report) == "choice: counted from 1"
