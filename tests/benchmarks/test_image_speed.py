import json

import numpy as np
import pytest

from benchmarks import image_speed
from pasta_gym.images import DiffusionImages
from pasta_gym.images.pipelines import load_pipeline
from pasta_gym.mini import grammar
from pasta_gym.seeding import mix
from pasta_gym.worlds import GrammarPromptBook
from tests.images.tiny_pipelines import distances, quiet, sdxl_config, tiny_config, write_tiny_flux


def test_both_ways_are_timed(capsys):
    image_speed.main(["--model", "mini", "--prompts", "1", "--batch-size", "3", "--repeats", "1"])
    speed = json.loads(capsys.readouterr().out)
    assert (speed["pictures"], speed["size"], speed["steps"], speed["batch_size"]) == (4, 64, 4, 3)
    assert speed["compiled"] is False
    assert speed["seconds_per_picture"] > 0
    assert speed["seconds_per_picture_plain"] > 0
    assert speed["seconds_per_picture_embedded"] > 0  # by the mini world's CLIP
    assert speed["seconds_per_picture_kept"] > 0
    assert speed["seconds_per_turn"] == pytest.approx(16 * speed["seconds_per_picture"], rel=0.01, abs=0.001)


def test_plain_diffusers_is_timed_before_anything_is_compiled(capsys, monkeypatch):
    done = []
    real_plain, real_generate = image_speed.paint_plainly, DiffusionImages.generate

    def plain(*given):
        done.append("plain")
        return real_plain(*given)

    def generate(painter, *given):
        done.append("filled" if painter.fill_batches else "not filled")
        return real_generate(painter, *given)

    monkeypatch.setattr(image_speed, "paint_plainly", plain)
    monkeypatch.setattr(DiffusionImages, "generate", generate)
    monkeypatch.setattr(image_speed, "compile_denoiser", lambda pipeline: done.append("compiled"))
    image_speed.main(["--model", "mini", "--prompts", "1", "--batch-size", "3", "--repeats", "1", "--compile"])
    assert json.loads(capsys.readouterr().out)["compiled"] is True
    assert done == ["plain", "plain", "compiled", "filled", "filled", "filled"]  # the last to embed and keep


@pytest.mark.parametrize("kind", ["flux", "sdxl"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers, with numpy 2
def test_both_ways_paint_the_same_pictures(kind, tmp_path):
    # Flux reads prompts of up to 512 tokens unless it is told otherwise: other pictures, and more work.
    length = 16 if kind == "flux" else None
    config = sdxl_config()
    if kind == "flux":
        write_tiny_flux(tmp_path / "flux")
        config = tiny_config(tmp_path / "flux", max_sequence_length=length)
    with quiet():
        pipeline = load_pipeline(config)
    painter = DiffusionImages(
        pipeline,
        GrammarPromptBook(),
        lambda pixels: np.zeros((len(pixels), 1), dtype=np.float32),
        1,
        size=config.height,
        steps=config.steps,
        guidance=config.guidance,
        batch_size=3,
        max_sequence_length=length,
    )
    prompts, keys = grammar.initial_prompt_ids("train")[:2], mix(np.arange(2)[:, None], np.arange(2))
    ours = painter.generate(prompts, keys).pixels
    plain = np.rint(255 * np.stack(image_speed.paint_plainly(painter, prompts, keys)))
    assert plain.shape == ours.shape
    other_prompts = np.rint(255 * np.stack(image_speed.paint_plainly(painter, prompts[::-1], keys)))
    unlike = distances(other_prompts, plain).min()
    assert unlike > 0.5
    # Another batch adds in another order, which a few steps with random weights blow up, but to no other prompt.
    assert distances(ours, plain).max() < 0.3 * unlike


@pytest.mark.parametrize("name", ["prompts", "batch-size", "repeats"])
def test_counts_are_positive(name):
    with pytest.raises(SystemExit, match=f"{name.replace('-', '_')} must be at least 1, got 0"):
        image_speed.main(["--model", "mini", f"--{name}", "0"])


def test_a_trajectory_has_84_pictures():
    assert image_speed.PICTURES_PER_TRAJECTORY == 84
