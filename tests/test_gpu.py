"""What CPU tests cannot see: the same numbers and the same files on a CUDA device."""

from pathlib import Path

import pytest
import torch

from scripts import generate
from tests.golden import golden_face, make_golden_generator

pytestmark = pytest.mark.gpu


@pytest.fixture
def full_precision():
    """Keep convolutions and products in float32; TF32 has ten bits of mantissa."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_published_network_gives_the_recorded_images_and_the_fast_path_keeps_50_db(full_precision):
    generator, face = make_golden_generator().cuda(), golden_face()
    ws, camera = face["in.ws"].cuda(), face["in.c"].cuda()
    with torch.no_grad():
        exact, fast = (
            generator.synthesize(ws, camera, with_normals=True, exact=exact)
            for exact in (True, False)
        )
    for actual, name in ((exact.image, "image"), (exact.segmentation, "semantic")):
        expected = face[f"r16.{name}"]
        error = (actual.cpu() - expected).abs().max() / expected.abs().max()
        assert error < 1e-3, name
    for name in ("image", "segmentation", "normals"):
        error = (getattr(exact, name) - getattr(fast, name)).square().mean()
        assert 10 * torch.log10(4 / error) > 50, name


def test_repeated_generation_gives_the_same_bytes_on_cuda(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["seeds=0,1", "pictures=all", "views.path=list", "views.angles_degrees=[[20,5]]"]
    contents = []
    for name in ("first", "second"):
        generate.main([*words, "device=cuda", "debug=tiny", f"output={name}"])
        files = sorted(Path(name).glob("*.png"))
        contents.append({path.name: path.read_bytes() for path in files})
    assert len(contents[0]) > 10
    assert contents[0] == contents[1]
