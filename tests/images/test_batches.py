import logging

import numpy as np
import pytest

from pasta_gym.images.batches import work_in_batches


class Memory:
    """Holds so many items at once and keeps a list of what was done."""

    def __init__(self, room):
        self.room = room
        self.done, self.tried = [], []

    def __call__(self, chunk):
        import torch

        size = chunk.stop - chunk.start
        self.tried.append(size)
        if size > self.room:
            raise torch.OutOfMemoryError("no room")
        self.done += range(chunk.start, chunk.stop)


def test_what_does_not_fit_is_halved_and_said(caplog):
    memory = Memory(room=3)
    with caplog.at_level(logging.WARNING):
        fitted = work_in_batches(10, 8, memory)
    assert memory.done == list(range(10))
    assert memory.tried == [8, 4, 2, 2, 2, 2, 2]
    assert fitted == 2
    assert "a batch of 8 pictures does not fit the memory; going on with 4" in caplog.text
    assert "a batch of 4 pictures does not fit the memory; going on with 2" in caplog.text


@pytest.mark.parametrize("n", [0, 1, 7, 8, 17])
def test_what_fits_is_done_once_in_order(n):
    memory = Memory(room=100)
    assert work_in_batches(n, 8, memory) == 8
    assert memory.done == list(range(n))
    assert memory.tried == [8] * (n // 8) + [n % 8] * (n % 8 > 0)


def test_a_single_item_that_does_not_fit():
    with pytest.raises(RuntimeError, match=r"not even one picture fits .* offload='model'"):
        work_in_batches(3, 2, Memory(room=0))


def test_messages_say_what_did_not_fit(caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match="not even one prompt fits"):
        work_in_batches(3, 2, Memory(room=0), what="prompt")
    assert "a batch of 2 prompts does not fit the memory; going on with 1" in caplog.text


def test_other_errors_pass():
    def fails(chunk):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work_in_batches(3, 2, fails)


def test_filled_batches_shrink_whole_and_the_last_reaches_past_the_end():
    memory = Memory(room=3)
    assert work_in_batches(5, 8, memory, fill=True) == 2
    assert memory.tried == [8, 4, 2, 2, 2]
    assert memory.done == list(range(6))
    # One item is left, but eight were tried: there is still something to halve.
    alone = Memory(room=1)
    assert work_in_batches(1, 8, alone, fill=True) == 1
    assert alone.tried == [8, 4, 2, 1]
    with pytest.raises(RuntimeError, match="not even one picture fits"):
        work_in_batches(1, 8, Memory(room=0), fill=True)


@pytest.mark.parametrize(
    ("fill", "batch_size", "sizes"),
    [(False, 4, [4, 2, 2, 1]), (True, 8, [5, 2, 2, 2])],
    ids=["as they come", "filled"],
)
def test_a_painter_goes_on_with_smaller_batches(fill, batch_size, sizes):
    import types

    from pasta_gym.images import DiffusionImages
    from pasta_gym.seeding import mix
    from tests.env.tiny_world import TinyBook

    class SmallPipeline:
        def __init__(self):
            self.sizes = []

        def __call__(self, prompt, height, width, num_inference_steps, guidance_scale, generator, output_type):
            import torch

            self.sizes.append(len(prompt))
            if len(prompt) > 2:
                raise torch.OutOfMemoryError("no room")
            noise = torch.stack([torch.rand(height, width, 3, generator=g) for g in generator])
            return types.SimpleNamespace(images=noise.numpy())

    def paint(pipeline, batch_size, fill):
        images = DiffusionImages(
            pipeline,
            TinyBook(),
            lambda p: p.mean(axis=(1, 2)),
            3,
            size=8,
            steps=1,
            guidance=0,
            batch_size=batch_size,
            fill_batches=fill,
        )
        return images, images.generate(np.array([1]), mix(np.arange(1)[:, None], np.arange(5)))

    pipeline = SmallPipeline()
    images, painted = paint(pipeline, batch_size, fill)
    assert pipeline.sizes == sizes
    assert images.batch_size == 2
    np.testing.assert_array_equal(painted.pixels, paint(SmallPipeline(), 1, fill=False)[1].pixels)
    # The next call begins with what fitted.
    images.generate(np.array([1]), mix(np.arange(1)[:, None], np.arange(3)))
    assert pipeline.sizes[len(sizes) :] == ([2, 2] if fill else [2, 1])


@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")  # diffusers, of its own call
def test_an_autoencoder_that_ran_out_of_memory_in_float32_is_cast_back(monkeypatch):
    import torch

    from pasta_gym.images import DiffusionImages
    from pasta_gym.images.pipelines import load_pipeline
    from pasta_gym.mini import grammar
    from pasta_gym.seeding import mix
    from pasta_gym.worlds import GrammarPromptBook
    from tests.images.tiny_pipelines import quiet, sdxl_config

    with quiet():
        pipeline = load_pipeline(sdxl_config())
        pipeline.to(dtype=torch.float16)
    pipeline.vae.register_to_config(force_upcast=True)
    prompts, keys = grammar.initial_prompt_ids("train")[:4], mix(np.arange(4)[:, None], np.arange(1))
    images = DiffusionImages(
        pipeline, GrammarPromptBook(), lambda p: p.mean(axis=(1, 2)), 3, size=64, steps=1, guidance=0, batch_size=4
    )

    def precisions():
        return {name: {p.dtype for p in getattr(pipeline, name).parameters()} for name in ("unet", "vae")}

    usual = precisions()
    assert usual["vae"] == {torch.float16}
    decode, failures = pipeline.vae.decode, []

    def short_of_memory(latents, **options):
        if len(latents) > room:
            failures.append(latents.dtype)
            raise torch.OutOfMemoryError("no room")
        return decode(latents, **options)

    monkeypatch.setattr(pipeline.vae, "decode", short_of_memory)
    room = 2
    halved = images.generate(prompts, keys).pixels
    assert failures == [torch.float32]
    assert images.batch_size == 2
    assert precisions() == usual
    np.testing.assert_array_equal(halved, images.generate(prompts, keys).pixels)
    # Not even one picture fits: whoever makes room may go on with the same object.
    room = 0
    with pytest.raises(RuntimeError, match="not even one picture fits"):
        images.generate(prompts, keys)
    room = 4
    np.testing.assert_array_equal(images.generate(prompts[:1], keys[:1]).pixels[0, 0].shape, (64, 64, 3))
    assert precisions() == usual


def test_weights_in_another_precision_than_their_parts_stay_in_it():
    import types

    import torch

    from pasta_gym.images.recovery import Recovery

    part = torch.nn.Sequential(torch.nn.Linear(2, 2).half(), torch.nn.Linear(2, 2))
    freed = []
    pipeline = types.SimpleNamespace(
        components={"text_encoder_2": part, "scheduler": None}, maybe_free_model_hooks=lambda: freed.append(1)
    )
    recovery = Recovery(pipeline)

    def fail():
        with recovery.watching():
            part.double()
            raise torch.OutOfMemoryError("no room")

    for _ in range(2):  # the second failure does not take the first one's precision for the usual one
        with pytest.raises(torch.OutOfMemoryError):
            fail()
    assert len(freed) == 1
    with recovery.watching():
        assert [p.dtype for p in part.parameters()] == [torch.float16] * 2 + [torch.float32] * 2
    assert len(freed) == 2
    with recovery.watching():
        pass
    assert len(freed) == 2
