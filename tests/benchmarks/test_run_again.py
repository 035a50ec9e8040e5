"""A run directory that is used a second time: after a mistake, after a kill, after a change."""

import logging

import pytest

from benchmarks.run import run
from benchmarks.settings import read_settings

MISSPELT = "+agent.typo=3"


def test_a_misspelt_run_gives_way_to_the_corrected_one(configure):
    wrong = read_settings(configure(MISSPELT))
    with pytest.raises(Exception, match="typo"):
        run(wrong)
    assert (wrong.folder / "failure.json").exists()  # the report lists it until then
    folder = run(read_settings(configure()))
    assert folder == wrong.folder
    assert (folder / "scores.csv").exists()
    assert not (folder / "failure.json").exists()


@pytest.mark.parametrize("left", ["checkpoint", "parts", "metrics.jsonl", "metadata.json", "scores.csv"])
def test_a_failed_run_that_made_something_keeps_its_directory(configure, left):
    wrong = read_settings(configure(MISSPELT))
    with pytest.raises(Exception, match="typo"):
        run(wrong)
    if "." in left:
        (wrong.folder / left).write_text("{}\n")
    else:
        (wrong.folder / left).mkdir()
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        run(read_settings(configure()))
    assert (wrong.folder / left).exists()


def test_a_run_that_has_not_failed_keeps_its_directory(configure):
    wrong = read_settings(configure(MISSPELT))
    with pytest.raises(Exception, match="typo"):
        run(wrong)
    (wrong.folder / "failure.json").unlink()  # as while it still runs
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        run(read_settings(configure()))


def test_a_finished_run_says_what_to_do_after_an_edit_of_the_agents_code(configure, caplog):
    folder = run(read_settings(configure()))
    with caplog.at_level(logging.INFO, "benchmarks.run"):
        run(read_settings(configure()))
    said = f"{folder} is finished, nothing to do; if the code changed, delete it or change agent.name"
    assert said in caplog.messages
