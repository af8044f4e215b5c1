"""Clean datasets of the doctor's tests, made once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mate3d.outputs.visualize import to_uint8
from mate3d.procedural.portraits import CAT, PERSON, PortraitKind, make_portraits
from tests.training.data.doctor.broken import OpenDataset
from training.data.format import DatasetWriter, image_name

KINDS = {"cats": CAT, "faces": PERSON}


def _write_portraits(path: Path, kind: PortraitKind, seed: int) -> None:
    portraits = make_portraits(kind, range(seed, seed + 24), 64, supersampling=1)
    images = to_uint8(portraits.render.image)
    label_maps = portraits.render.label_map.numpy().astype(np.uint8)
    with DatasetWriter(path, kind.label_set) as writer:
        for i, caption in enumerate(portraits.captions):
            camera = portraits.camera[i].tolist()
            writer.add(image_name(i), images[i], label_maps[i], camera, caption)


@pytest.fixture(scope="session")
def clean_dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a clean dataset of "cats" or "faces"; nobody may change it."""
    folder = tmp_path_factory.mktemp("clean")

    def make(kind: str, seed: int = 0) -> Path:
        path = folder / f"{kind}-{seed}"
        if not path.exists():
            _write_portraits(path, KINDS[kind], seed)
        return path

    return make


@pytest.fixture
def open_copy(clean_dataset: Callable[..., Path], tmp_path: Path) -> Callable[[str], OpenDataset]:
    """Copy a clean dataset, to be broken."""

    def copy(kind: str) -> OpenDataset:
        path = tmp_path / kind
        shutil.copytree(clean_dataset(kind), path)
        return OpenDataset(path, KINDS[kind].label_set)

    return copy
