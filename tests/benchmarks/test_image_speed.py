import json

import pytest

from benchmarks import image_speed


def test_both_ways_are_timed(capsys):
    image_speed.main(["--model", "mini", "--prompts", "1", "--batch-size", "3", "--repeats", "1"])
    speed = json.loads(capsys.readouterr().out)
    assert (speed["pictures"], speed["size"], speed["steps"], speed["batch_size"]) == (4, 64, 4, 3)
    assert speed["seconds_per_picture"] > 0
    assert speed["seconds_per_picture_plain"] > 0
    assert speed["seconds_per_turn"] == pytest.approx(16 * speed["seconds_per_picture"], rel=0.01, abs=0.001)


def test_a_trajectory_has_84_pictures():
    assert image_speed.PICTURES_PER_TRAJECTORY == 84
