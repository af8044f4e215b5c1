"""Options of prepare_data, and which of them belong to each task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from mate3d.errors import UserError
from mate3d.options import (
    Device,
    FilePath,
    NonNegativeInt,
    OptionError,
    Options,
    PositiveInt,
    option_hints,
)
from scripts._options import Paths
from training.data.dataset_options import PROCEDURAL_SOURCES, DatasetOptions
from training.data.preparation.photo_options import PhotoOptions

Task = Literal["check", "repair", "procedural", "photos", "packed"]


@dataclass(frozen=True, kw_only=True)
class _RunOptions(Options):
    """What to read and write, and where to run.

    Args:
        output: Dataset to write: a folder, or an uncompressed archive if it ends in .zip. Needed
            unless check=true.
        overwrite: Replace an existing dataset.
        restart: Discard the work of an interrupted run. By default, the same command resumes it.
        shard_size: Samples per tar shard, for training on many nodes; null writes a plain folder or
            archive.
        resolution: Resolution of images and masks, in pixels; null is dataset.resolution.
        max_repeats: Repeat images of rare yaw angles up to this many times per epoch; 1 repeats
            none.
        num_workers: Number of worker processes; 0 works in the main process.
        device: Where the parsing, captioning and detection networks run; auto uses a GPU if there
            is one.
        data: Existing dataset: to check, or to rewrite with dataset=packed in another format,
            resolution or label set, or with other captions.
        check: Look for errors in `data` and write only a report, index.html in the run folder. Exit
            code 0: at most notes; 1: errors or warnings; 2: it could not be checked.
        fix: With check=true: write a repaired copy to `output`, and check that. all, or codes of
            findings, such as mask_colors,camera_convention.
        label_set: With check=true: label set of a dataset that does not name one.
        check_images: With check=true: maximum number of images to check, drawn at random; null
            checks all.
    """

    output: FilePath = ""
    overwrite: bool = False
    restart: bool = False
    shard_size: PositiveInt | None = None
    resolution: PositiveInt | None = None
    max_repeats: PositiveInt = 1
    num_workers: NonNegativeInt = 0
    device: Device = "auto"
    data: FilePath | None = None
    check: bool = False
    fix: tuple[str, ...] | None = None
    label_set: str | None = None
    check_images: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(PhotoOptions, _RunOptions):
    r"""Write a dataset in the format that training reads, or check one.

    python -m scripts.prepare_data num_images=5000 output=data/cats.zip
    python -m scripts.prepare_data dataset=folder images=photos masks=masks \
        dataset.label_set=celebamask_hq output=data/mine.zip
    python -m scripts.prepare_data check=true data=data/mine.zip

    docs/data.md explains label sets, cameras, formats and what the check finds.

    Args:
        num_images: Number of procedural portraits.
        seed: Seed of the procedural portraits. Image i of a seed is always the same, whatever the
            number of images, the batch size and the workers.
        set_attributes: Attributes that all procedural portraits get instead of their own, such as
            {ear_size:1.2}; see datasets/procedural_*.
        scale_attributes: Factors on the portraits' own attributes; with {ear_size:1.5}, ears are
            1.5 times as big.
        batch_size: Procedural portraits rendered at once.
        dataset: The dataset.
        paths: Where files are.
    """

    num_images: PositiveInt = 5000
    seed: NonNegativeInt = 0
    set_attributes: dict[str, Any] = field(default_factory=dict)
    scale_attributes: dict[str, Any] = field(default_factory=dict)
    batch_size: PositiveInt = 8
    dataset: DatasetOptions
    paths: Paths

    @property
    def side(self) -> int | None:
        """Side of images and masks; None keeps that of a packed dataset."""
        return self.resolution or self.dataset.resolution

    @property
    def task(self) -> Task:
        """The requested task."""
        if self.check:
            return "check" if self.fix is None else "repair"
        if self.dataset.source in PROCEDURAL_SOURCES:
            return "procedural"
        return "packed" if self.dataset.source == "packed" else "photos"


# Files that only photo datasets use.
FILE_OPTIONS = ("images", "masks", "cameras", "landmarks", "captions", "attributes")
# Options that samples depend on, besides the dataset's own and the resolution.
PHOTO_OPTIONS = tuple(option_hints(PhotoOptions))
CAPTION_OPTIONS = ("captions", "caption_source", "captioning")
PROCEDURAL_OPTIONS = ("num_images", "seed", "set_attributes", "scale_attributes")
# Options that need another one: name, value, what it needs.
_NEEDS = (
    ("caption_source", "model", "captioning.model"),
    ("landmark_source", "file", "landmarks"),
    ("landmark_source", "detector", "detection.model"),
)

_EVERYWHERE = ("check", "paths", "debug", "num_workers")
_WRITING = ("output", "overwrite", "shard_size")
_PREPARING = (*_WRITING, "dataset", "restart", "resolution", "max_repeats")
_OPTIONS: dict[Task, tuple[str, ...]] = {
    "check": ("data", "label_set", "check_images"),
    "repair": ("data", "label_set", "fix", *_WRITING),
    "procedural": (*_PREPARING, *PROCEDURAL_OPTIONS, "batch_size"),
    "photos": (*_PREPARING, *PHOTO_OPTIONS, "device"),
    "packed": (*_PREPARING, "data", *CAPTION_OPTIONS, "device"),
}
_NEEDED: dict[Task, tuple[str, ...]] = {
    "check": ("data",),
    "repair": ("data", "output"),
    "procedural": ("output",),
    "photos": ("output",),
    "packed": ("output", "data"),
}
_NAMES: dict[Task, str] = {
    "check": "check=true",
    "repair": "check=true fix=...",
    "procedural": "procedural portraits",
    "photos": "photos (dataset=folder, ffhq_mask, celebamask_hq or catmask_hq)",
    "packed": "dataset=packed",
}


def check_words(options: PrepareOptions, words: Sequence[str]) -> None:
    """Check that the options fit the task.

    Args:
        words: The command line, which shows the options that the user set.

    Raises:
        UserError: If a needed option is missing, or one is given that would have no effect.
    """
    task = options.task
    for word in words:
        option = word.lstrip("+").partition("=")[0].split(".")[0]
        if option not in (*_EVERYWHERE, *_OPTIONS[task]):
            owners = [_NAMES[other] for other, known in _OPTIONS.items() if option in known]
            raise UserError(
                f"option {word} has no effect with {_NAMES[task]} (only with {owners[0]})"
            )
    for option in _NEEDED[task]:
        if not getattr(options, option):
            raise UserError(f"missing required option: {option}=... (see --help)")
    if task == "photos":
        _check_photos(options)
    for option, value, needed in _NEEDS:
        if getattr(options, option) == value and attrgetter(needed)(options) is None:
            raise UserError(f"{option}={value} needs {needed}=... (see --help)")


def _check_photos(options: PrepareOptions) -> None:
    """Check the options of photos against each other."""
    if options.images is None:
        raise UserError("missing required option: images=FOLDER (see --help)")
    if (options.masks is None) == (options.parsing.model is None):
        raise UserError("photos need either masks=FOLDER or parsing.model=... (see --help)")
    if options.cameras is not None and options.crop in ("ffhq", "eg3d"):
        advice = "cannot be used with cameras=..., which describe uncropped photos"
        raise OptionError("crop", options.crop, advice)
