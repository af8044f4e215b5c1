"""Options of samples made from photos."""

from dataclasses import dataclass
from typing import Literal

from mate3d.options import FilePath, NonNegativeFloat, OptionError, Options, PositiveFloat
from training.data.dataset_options import CropName


@dataclass(frozen=True)
class ParsingOptions(Options):
    """The network that makes masks.

    Args:
        model: A transformers model for semantic segmentation: a folder or hub id, such as
            jonathandinu/face-parsing.
        label_set: Label set of its classes (celebamask_hq for jonathandinu/face-parsing); required
            with a model.
    """

    model: FilePath | None = None
    label_set: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.model is not None and self.label_set is None:
            raise OptionError("label_set", None, "is needed with a model")


@dataclass(frozen=True)
class CaptioningOptions(Options):
    """The network that writes captions.

    Args:
        model: A transformers model that describes images: a folder or hub id.
    """

    model: FilePath | None = None


@dataclass(frozen=True)
class DetectionOptions(Options):
    """The network that finds landmarks.

    Args:
        model: YuNet's ONNX file for OpenCV's face detector (pip install -e '.[photos]').
    """

    model: FilePath | None = None


@dataclass(frozen=True, kw_only=True)
class PhotoOptions(Options):
    """How photos become samples.

    Args:
        images: Folder of the photos.
        masks: Folder of their masks, with the same names; null makes masks with parsing.model.
        mask_label_set: Label set of these masks; null is dataset.label_set. Masks are converted if
            the two differ.
        cameras: Known cameras: a JSON file like EG3D's dataset.json; null estimates them.
        landmarks: Known landmarks, five per photo: a JSON file or a folder of NAME.txt.
        captions: Known captions: .json, .jsonl, .csv, or a folder of NAME.txt.
        attributes: Known attributes: CelebAMask-HQ's attribute file.
        crop: How photos are cropped. none uses square photos unchanged, center takes the largest
            square, ffhq and eg3d align the head by its landmarks; null is dataset.crop.
        landmark_source: Where landmarks come from; auto takes the first of file, mask and detector
            that is available.
        max_residual: Leave out photos whose estimated camera misses the landmarks by more than
            this, as a fraction of the side.
        camera_distance: Distance of estimated cameras from the head, in world units; null estimates
            the distance too.
        caption_source: Where captions come from if there is no file. labels uses the attributes, or
            else what the mask shows; model uses captioning.model. A packed dataset keeps the
            captions that it has, unless this is model.
        parsing: The network that makes masks.
        captioning: The network that writes captions.
        detection: The network that finds landmarks.
    """

    images: FilePath | None = None
    masks: FilePath | None = None
    mask_label_set: str | None = None
    cameras: FilePath | None = None
    landmarks: FilePath | None = None
    captions: FilePath | None = None
    attributes: FilePath | None = None
    crop: CropName | None = None
    landmark_source: Literal["auto", "file", "mask", "detector"] = "auto"
    max_residual: NonNegativeFloat = 0.05
    camera_distance: PositiveFloat | None = 2.7
    caption_source: Literal["none", "labels", "model"] = "labels"
    parsing: ParsingOptions = ParsingOptions()
    captioning: CaptioningOptions = CaptioningOptions()
    detection: DetectionOptions = DetectionOptions()
