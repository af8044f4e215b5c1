"""Make a sample from a photo: mask, landmarks, crop, camera and caption from chosen sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion
from mate3d.labels import LabelSet, get_mask_label_set
from mate3d.photo.alignment import Crop, eg3d_crop, ffhq_crop, middle_box
from mate3d.photo.canonical_heads import canonical_head
from mate3d.photo.captioning import CaptionModel
from mate3d.photo.detectors import YuNetDetector
from mate3d.photo.head_pose import estimate_camera
from mate3d.photo.landmarks import Point, five_landmarks, named_landmarks
from mate3d.photo.mask_landmarks import landmarks_from_mask
from mate3d.photo.open_photo import open_photo
from mate3d.photo.parsing import SegmentationModel
from training.data.dataset_options import Framing
from training.data.preparation.captions import write_caption
from training.data.preparation.listing import PhotoFiles
from training.data.preparation.photo_options import PhotoOptions
from training.data.preparation.samples import (
    FailedSample,
    Job,
    PreparedSample,
    RawItem,
    make_sample,
)

# Crops determined by landmarks.
_ALIGNED = ("ffhq", "eg3d")
# Smaller heads would give blurred crops.
_MAX_ENLARGEMENT = 2.0


class Models(NamedTuple):
    """Networks for photos; None if not used."""

    parser: SegmentationModel | None
    captioner: CaptionModel | None
    detector: YuNetDetector | None


@dataclass(frozen=True)
class _Shot:
    """A photo being processed; the mask has its original label set, points are in pixels."""

    photo: Image.Image
    label_map: np.ndarray  # [H, W] uint8
    label_set: LabelSet
    landmarks: Mapping[str, Point] | None


def photo_jobs(items: Sequence[RawItem]) -> list[Job]:
    """Return one job per photo; its version changes with the photo or mask file."""
    return [Job((item.name,), item, _version(item)) for item in items]


def _version(item: RawItem) -> str:
    stats = [path.stat() for path in (item.image, *item.mask) if path.exists()]
    return " ".join(f"{one.st_size}:{one.st_mtime_ns}" for one in stats)


class PhotoMaker:
    """Makes samples from photos.

    Models are loaded on first use in each process.

    Args:
        options: How to make samples; `crop` is not None.
        source: Source of photos and masks.
        label_set: Label set of the dataset, which masks are converted to.
        resolution: Side of the samples, in pixels.
        framing: Size and position of people's heads in photos that `crop` does not align.
        device: Where models run.

    Raises:
        UserError: If masks cannot be converted.
    """

    def __init__(
        self,
        options: PhotoOptions,
        source: PhotoFiles,
        label_set: LabelSet,
        *,
        resolution: int,
        framing: Framing = "rig",
        device: str | torch.device = "cpu",
    ):
        self._options, self._source, self._label_set = options, source, label_set
        self._resolution, self._framing, self._device = resolution, framing, device
        sets = [source.label_set]
        if options.parsing.model is not None:
            sets.append(get_mask_label_set(options.parsing.label_set))
        self._conversions = {one.name: find_conversion(one, label_set) for one in sets}

    @property
    def losses(self) -> tuple[str, ...]:
        """What the label conversions lose, in sentences."""
        return tuple(
            dict.fromkeys(loss for one in self._conversions.values() for loss in one.losses)
        )

    def __call__(self, job: Job) -> list[PreparedSample | FailedSample]:
        item: RawItem = job.payload
        # Load models outside the try block: if that fails, stop instead of blaming this photo.
        _ = self.models
        try:
            return [self._make(item)]
        except UserError as error:
            return [FailedSample(item.name, str(error))]

    @cached_property
    def models(self) -> Models:
        """Networks of the options; access this early to find wrong paths before any work.

        Raises:
            UserError: If one cannot be loaded.
        """
        options, device = self._options, self._device
        parser = captioner = detector = None
        if options.parsing.model is not None:
            label_set = get_mask_label_set(options.parsing.label_set)
            parser = SegmentationModel(options.parsing.model, label_set, device=device)
        if options.captioning.model is not None:
            captioner = CaptionModel(options.captioning.model, device=device)
        if options.detection.model is not None:
            detector = YuNetDetector(options.detection.model)
        return Models(parser, captioner, detector)

    def _make(self, item: RawItem) -> PreparedSample:
        shot = self._cut(self._read(item), item)
        camera, residual = self._choose_camera(shot, item)
        label_map = self._conversions[shot.label_set.name].apply(shot.label_map)
        return make_sample(
            item.name,
            np.asarray(shot.photo),
            label_map,
            self._label_set,
            camera,
            caption=self._write_caption(item, shot),
            residual=residual,
            attributes=item.attributes,
        )

    def _read(self, item: RawItem) -> _Shot:
        photo, parser = open_photo(item.image), self.models.parser
        if item.mask:
            label_map, label_set = self._source.read_mask(item), self._source.label_set
        elif parser is not None:
            label_map, label_set = parser.label_map(photo), parser.label_set
        else:
            raise UserError("no mask; set masks= or parsing.model=")
        label_map = _fit_mask(label_map, photo.size)
        landmarks = None
        if item.camera is None or self._options.crop in _ALIGNED:
            landmarks = self._find_landmarks(item, photo, label_map, label_set)
        return _Shot(photo, label_map, label_set, landmarks)

    def _find_landmarks(
        self, item: RawItem, photo: Image.Image, label_map: np.ndarray, label_set: LabelSet
    ) -> Mapping[str, Point] | None:
        """Return landmarks from the requested source; "auto" uses the first that has some."""
        wanted = self._options.landmark_source
        if wanted in ("auto", "file") and item.landmarks is not None:
            return named_landmarks(np.array(item.landmarks))
        if wanted in ("auto", "detector") and self.models.detector is not None:
            five = self.models.detector.detect(np.asarray(photo))
            if five is not None:
                return named_landmarks(five)
        if wanted in ("auto", "mask"):
            return landmarks_from_mask(label_map, label_set)
        return None

    def _cut(self, shot: _Shot, item: RawItem) -> _Shot:
        """Return a square crop of the samples' size."""
        crop, size = self._options.crop, self._resolution
        if crop in _ALIGNED:
            five = five_landmarks(shot.landmarks or {})
            if five is None:
                found = ", ".join(shot.landmarks or {}) or "none"
                raise UserError(f"crop={crop} requires five landmarks; found {found}")
            square = ffhq_crop(five, size) if crop == "ffhq" else eg3d_crop(five, size)
            if square.enlargement > _MAX_ENLARGEMENT:
                raise UserError(
                    f"head too small: its crop has about {square.side:.0f} px for resolution={size}"
                )
            photo, label_map = square.cut_image(shot.photo), square.cut_label_map(shot.label_map)
        else:
            self._check_shape(shot.photo.size, item)
            square = _middle_square(shot.photo.size, size)
            photo, label_map = _cut_upright(shot, square)
        landmarks = None if shot.landmarks is None else square.move_landmarks(shot.landmarks)
        return _Shot(photo, label_map, shot.label_set, landmarks)

    def _check_shape(self, size: tuple[int, int], item: RawItem) -> None:
        shape = f"{size[0]} x {size[1]} px"
        if size[0] != size[1] and self._options.crop == "none":
            raise UserError(f"{shape}, not square; use crop=center, ffhq or eg3d")
        if size[0] != size[1] and item.camera is not None:
            raise UserError(f"{shape}, not square, so its camera would not fit a crop")
        if min(size) < self._resolution:
            raise UserError(
                f"{shape}, smaller than resolution={self._resolution}; use a smaller resolution"
            )

    def _choose_camera(self, shot: _Shot, item: RawItem) -> tuple[Sequence[float], float | None]:
        """Return the known camera, or one estimated from the landmarks with its residual."""
        if item.camera is not None:
            return item.camera, None
        options = self._options
        framing = options.crop if options.crop in _ALIGNED else self._framing
        estimate = estimate_camera(
            shot.landmarks or {},
            self._resolution,
            canonical_head(shot.label_set, framing),
            distance=options.camera_distance,
        )
        if estimate.residual > options.max_residual:
            raise UserError(
                f"camera residual {estimate.residual:.3f} of the side exceeds "
                f"max_residual={options.max_residual}"
            )
        return estimate.camera, estimate.residual

    def _write_caption(self, item: RawItem, shot: _Shot) -> str:
        # Use the original mask: sets with merged classes contain less.
        source, shown = self._options.caption_source, (shot.photo, shot.label_map, shot.label_set)
        return item.caption or write_caption(source, self.models.captioner, *shown, item.attributes)


def _fit_mask(
    label_map: np.ndarray,  # [h, w]
    size: tuple[int, int],
) -> np.ndarray:  # [H, W]
    """Resize a mask with the photo's aspect ratio to its size, by nearest neighbour."""
    height, width = label_map.shape
    if (width, height) == size:
        return label_map
    if abs(width * size[1] - height * size[0]) > max(size):
        raise UserError(
            f"mask of {width} x {height} px has another aspect ratio than the photo of "
            f"{size[0]} x {size[1]} px"
        )
    return np.array(Image.fromarray(label_map).resize(size, Image.Resampling.NEAREST))


def _middle_square(size: tuple[int, int], resolution: int) -> Crop:
    left, top, right, bottom = middle_box(size)
    return Crop(((left + right) / 2, (top + bottom) / 2), right - left, 0.0, resolution)


def _cut_upright(shot: _Shot, square: Crop) -> tuple[Image.Image, np.ndarray]:
    (x, y), half, size = square.center, square.side / 2, (square.size, square.size)
    box = (x - half, y - half, x + half, y + half)
    photo = shot.photo.resize(size, Image.Resampling.BICUBIC, box=box)
    mask = Image.fromarray(shot.label_map).resize(size, Image.Resampling.NEAREST, box=box)
    return photo, np.array(mask)
