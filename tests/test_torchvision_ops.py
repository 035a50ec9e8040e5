"""torchvision, open_clip and diffusers import beside the torch at hand, whatever it was built for."""

import subprocess
import sys

import pytest

PRELUDE = "from pasta_gym.torchvision_ops import ensure_importable; import sys\n"


def run(code):
    return subprocess.run([sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def imported():
    return run(
        "ensure_importable(); ensure_importable()\n"
        "import torch, torchvision, open_clip\n"
        "from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel\n"
        "ensure_importable()\n"
        "schema = torch.ops.torchvision.nms.default._schema\n"
        "print([a.name for a in schema.arguments], len(schema.returns), torchvision.transforms.Resize(8).size)"
    )


def test_the_imports_succeed_and_asking_again_is_harmless(imported):
    assert imported.returncode == 0, imported.stderr
    assert "does not exist" not in imported.stderr


def test_the_operator_has_torchvisions_signature(imported):
    assert imported.stdout.strip() == "['dets', 'scores', 'iou_threshold'] 1 8"


def test_nothing_is_imported_when_it_is_not_asked():
    quiet = run("print(sorted({'torch', 'torchvision'} & set(sys.modules)))")
    assert quiet.stdout.strip() == "[]", quiet.stderr


def test_a_machine_without_torchvision_is_left_alone():
    absent = run(
        "import importlib.util; importlib.util.find_spec = lambda name: None\n"
        "ensure_importable(); print('torch' in sys.modules)"
    )
    assert absent.stdout.strip() == "False", absent.stderr


def test_an_imported_torchvision_is_left_alone():
    present = run("sys.modules['torchvision'] = sys; ensure_importable(); print('torch' in sys.modules)")
    assert present.stdout.strip() == "False", present.stderr
