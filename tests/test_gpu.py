"""What CPU tests cannot see: the same numbers and the same scripts on a CUDA device."""

import pytest
import torch

from tests.golden import golden_face, make_golden_generator
from tests.pipeline import run_every_script

pytestmark = pytest.mark.gpu


@pytest.fixture
def full_precision():
    """Keep convolutions and products in float32; TF32 has ten bits of mantissa."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_published_network_gives_the_recorded_images(full_precision):
    generator, face = make_golden_generator().cuda(), golden_face()
    with torch.no_grad():
        view = generator.synthesize(face["in.ws"].cuda(), face["in.c"].cuda())
    for actual, name in ((view.image, "image"), (view.segmentation, "semantic")):
        expected = face[f"r16.{name}"]
        error = (actual.cpu() - expected).abs().max() / expected.abs().max()
        assert error < 1e-3, name


def test_every_script_runs_on_cuda(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "ears" in run_every_script(16, "device=cuda")["mask_iou"]
