"""Clean data sets of the doctor's tests, made once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ
from mate3d.outputs.visualize import to_uint8
from mate3d.procedural.portraits import make_procedural_cat
from tests.training.data.doctor.broken import OpenDataset
from tests.training.data.doctor.faces import draw_face
from training.data.format import DatasetWriter, image_name

LABEL_SETS = {"cats": CATMASK_HQ, "faces": CELEBAMASK_HQ}
_NUM_ITEMS = 24
_SIDE = 64


def _write_cats(path: Path, seed: int) -> None:
    portraits = make_procedural_cat(range(seed, seed + _NUM_ITEMS), _SIDE, supersampling=1)
    images = to_uint8(portraits.render.image)
    label_maps = portraits.render.label_map.numpy().astype(np.uint8)
    with DatasetWriter(path, CATMASK_HQ) as writer:
        for i, caption in enumerate(portraits.captions):
            camera = portraits.camera[i].tolist()
            writer.add(image_name(i), images[i], label_maps[i], camera, caption)


def _write_faces(path: Path, seed: int) -> None:
    with DatasetWriter(path, CELEBAMASK_HQ) as writer:
        for i in range(_NUM_ITEMS):
            writer.add(image_name(i), *draw_face(seed + i, _SIDE), f"person {i}")


@pytest.fixture(scope="session")
def clean_dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a clean data set of "cats" or "faces"; nobody may change it."""
    folder = tmp_path_factory.mktemp("clean")

    def make(kind: str, seed: int = 0) -> Path:
        path = folder / f"{kind}-{seed}"
        if not path.exists():
            {"cats": _write_cats, "faces": _write_faces}[kind](path, seed)
        return path

    return make


@pytest.fixture
def open_copy(clean_dataset: Callable[..., Path], tmp_path: Path) -> Callable[[str], OpenDataset]:
    """Copy a clean data set, to be broken."""

    def copy(kind: str) -> OpenDataset:
        path = tmp_path / kind
        shutil.copytree(clean_dataset(kind), path)
        return OpenDataset(path, LABEL_SETS[kind])

    return copy
