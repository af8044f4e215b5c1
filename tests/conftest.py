"""Fixtures; every test runs in one thread and on CPU, unless it is marked `gpu`."""

import os

# Read when torch is imported, and by the processes that tests start: workers share the cores.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mate3d.cameras import make_camera
from mate3d.generator import Generator, GeneratorConfig
from mate3d.labels import CATMASK_HQ
from mate3d.rendering.renderer import RenderingConfig
from training.data.format import DatasetWriter, image_name

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def camera() -> Tensor:  # [1, 25]
    """One camera that is neither frontal nor level."""
    return make_camera(yaw=0.3, pitch=0.1)


@pytest.fixture
def tiny_generator() -> Generator:
    """A cat generator of a few thousand weights: 8 px planes, 8 px raw, 16 px images."""
    torch.manual_seed(0)
    config = GeneratorConfig(
        label_set="catmask_hq",
        z_dim=12,
        w_dim=16,
        camera_scale=0.0,
        plane_resolution=8,
        plane_channels=4,
        channel_base=64,
        channel_max=8,
        hidden_width=8,
        num_features=8,
        box_size=0.7,
        background="learned",
        neural_rendering_resolution=8,
        sr_input_resolution=8,
        resolution=16,
        sr_channels=(8, 8),
        rendering=RenderingConfig(near=2.3, far=3.1, num_coarse_samples=6, num_fine_samples=6),
    )
    return Generator(config).eval().requires_grad_(False)


def _write_noise_dataset(path: Path) -> Path:
    rng = np.random.default_rng(0)
    with DatasetWriter(path, CATMASK_HQ) as writer:
        for index in range(6):
            image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            label_map = rng.integers(0, 6, (16, 16), dtype=np.uint8)
            camera = make_camera(*rng.uniform(-0.4, 0.4, 2).tolist())[0].tolist()
            writer.add(image_name(index), image, label_map, camera, f"cat number {index}")
    return path


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """Six 16 px samples of random pixels, labels and cameras in a folder; always the same."""
    return _write_noise_dataset(tmp_path / "data")


@pytest.fixture
def dataset_zip(tmp_path: Path) -> Path:
    """The same dataset as an archive."""
    return _write_noise_dataset(tmp_path / "data.zip")


@pytest.fixture
def fail(capsys) -> Callable[..., str]:
    """Call a script with words that a user got wrong; return the one line that it ends with."""

    def call(main: Callable[[list[str]], None], *words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as info:
            main(list(words))
        assert info.value.code == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        return line

    return call
