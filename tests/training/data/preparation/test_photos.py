"""Samples of photos: crops that the photo has too few pixels for."""

import numpy as np
from PIL import Image

from mate3d.labels import CELEBAMASK_HQ, save_label_map
from training.data.preparation.photo_options import PhotoOptions
from training.data.preparation.photos import PhotoMaker
from training.data.preparation.samples import FailedSample, Job, PreparedSample, RawItem
from training.data.preparation.sources import FolderSource

# Of a face in a square of 80 pixels.
LANDMARKS = ((40.0, 40.0), (60.0, 40.0), (50.0, 52.0), (43.0, 62.0), (57.0, 62.0))


def _make(tmp_path, resolution: int) -> PreparedSample | FailedSample:
    options = PhotoOptions(
        crop="ffhq", landmark_source="file", max_residual=0.1, caption_source="none"
    )
    Image.new("RGB", (100, 100), (90, 90, 90)).save(tmp_path / "photo.png")
    save_label_map(tmp_path / "mask.png", np.ones((100, 100), np.uint8), CELEBAMASK_HQ)
    source = FolderSource(tmp_path, tmp_path, CELEBAMASK_HQ)
    maker = PhotoMaker(options, source, CELEBAMASK_HQ, resolution=resolution)
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    item = RawItem("photo.png", photo, (mask,), landmarks=LANDMARKS)
    (sample,) = maker(Job((item.name,), item))
    return sample


def test_heads_may_be_enlarged_up_to_twice(tmp_path):
    assert isinstance(_make(tmp_path, 160), PreparedSample)
    sample = _make(tmp_path, 161)
    assert isinstance(sample, FailedSample)
    assert "80 px" in sample.reason and "resolution=161" in sample.reason
