import pytest

from pasta_gym.images import PRESETS, DiffusionModelConfig, diffusion_preset


@pytest.mark.parametrize(
    ("name", "steps", "guidance", "size", "dtype"),
    [
        ("sdxl", 30, 5.0, 1024, "float16"),
        ("sdxl-turbo", 1, 0.0, 512, "float16"),
        ("flux-schnell", 4, 0.0, 1024, "bfloat16"),
    ],
)
def test_presets_are_as_their_models_were_made(name, steps, guidance, size, dtype):
    preset = PRESETS[name]
    assert (preset.steps, preset.guidance, preset.height, preset.width) == (steps, guidance, size, size)
    assert preset.dtype == dtype
    assert not preset.allow_download


def test_a_preset_with_changes():
    changed = diffusion_preset("flux-schnell", batch_size=2, offload="model")
    assert (changed.batch_size, changed.offload, changed.max_sequence_length) == (2, "model", 256)
    with pytest.raises(ValueError, match=r"preset must be one of .*'sdxl-turbo'.*, got 'sdxl2'"):
        diffusion_preset("sdxl2")
    with pytest.raises(ValueError, match=r"unknown fields \['precision'\]; DiffusionModelConfig has .*'dtype'"):
        diffusion_preset("sdxl", precision="float16")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", "", "model must name a repository"),
        ("steps", 0, "steps must be at least 1, got 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("guidance", -1.0, r"guidance must be 0 or more, got -1\.0"),
        ("guidance", float("nan"), "guidance must be 0 or more, got nan"),
        ("height", 0, "height must be a positive multiple of 8 pixels, got 0"),
        ("width", 100, "width must be a positive multiple of 8 pixels, got 100"),
        ("dtype", "fp16", "dtype must be one of .*'float16'.* got 'fp16'"),
        ("device", "gpu", "device must be one of .* got 'gpu'"),
        ("offload", "disk", "offload must be one of .* got 'disk'"),
        ("max_sequence_length", 0, "max_sequence_length must be at least 1, got 0"),
    ],
)
def test_values_out_of_range(field, value, message):
    fields = {"model": "a/b", "steps": 1, "guidance": 0.0, "height": 64, "width": 64, field: value}
    with pytest.raises(ValueError, match=message):
        DiffusionModelConfig(**fields)
