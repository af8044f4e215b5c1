"""Which options of prepare_data belong to what it is asked to do; the rest is refused."""

from collections.abc import Sequence
from typing import Literal

from omegaconf import DictConfig, OmegaConf

from mate3d.errors import UserError

Task = Literal["check", "repair", "procedural", "photos", "packed"]

_MINIMA = {
    "num_images": 1,
    "resolution": 1,
    "batch_size": 1,
    "num_workers": 0,
    "seed": 0,
    "max_repeats": 1,
    "shard_size": 1,
    "check_images": 1,
}
_CHOICES = {
    "crop": ("none", "center", "ffhq", "eg3d"),
    "landmark_source": ("auto", "file", "mask", "detector"),
    "caption_source": ("none", "labels", "model"),
}
# Files that only photos have.
FILE_OPTIONS = ("images", "masks", "cameras", "landmarks", "captions", "attributes")
# What samples depend on, beside the data set's own options and the resolution.
PHOTO_OPTIONS = (
    *FILE_OPTIONS,
    "mask_label_set",
    "crop",
    "landmark_source",
    "max_residual",
    "camera_distance",
    "caption_source",
    "parsing",
    "captioning",
    "detection",
)
PROCEDURAL_OPTIONS = ("num_images", "seed", "set_attributes", "scale_attributes")

_EVERYWHERE = ("check", "paths", "debug", "num_workers")
_WRITING = ("output", "overwrite", "shard_size")
_PREPARING = (*_WRITING, "dataset", "restart", "resolution", "max_repeats")
_OPTIONS: dict[Task, tuple[str, ...]] = {
    "check": ("data", "label_set", "check_images"),
    "repair": ("data", "label_set", "fix", *_WRITING),
    "procedural": (*_PREPARING, *PROCEDURAL_OPTIONS, "batch_size"),
    "photos": (*_PREPARING, *PHOTO_OPTIONS, "device"),
    "packed": (*_PREPARING, "data"),
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


def read_task(config: DictConfig, words: Sequence[str]) -> Task:
    """Return what is asked for.

    Args:
        config: The resolved configuration.
        words: The command line, which tells the options that the user gave.

    Raises:
        UserError: If a value is not allowed, a needed one is missing, or an option is given that
            would do nothing.
    """
    for option, minimum in _MINIMA.items():
        if config[option] is not None and config[option] < minimum:
            raise UserError(f"option {option}={config[option]} must be at least {minimum}")
    for option, allowed in _CHOICES.items():
        if config[option] is not None and config[option] not in allowed:
            raise UserError(f"option {option}={config[option]}; use {', '.join(allowed)}")
    task = _find_task(config)
    _refuse_others(task, words)
    for option in _NEEDED[task]:
        if not config[option]:
            raise UserError(f"missing value, please give: {option}=... (see --help)")
    return task


def check_photo_options(config: DictConfig) -> None:
    """Check what photos need of each other's options.

    Raises:
        UserError: If something is missing or does not fit.
    """
    if config.images is None:
        raise UserError("missing value, please give: images=FOLDER (see --help)")
    if (config.masks is None) == (config.parsing.model is None):
        raise UserError(
            "photos need masks=FOLDER, or parsing.model= to make them, one of both (see --help)"
        )
    if config.cameras is not None and config.crop in ("ffhq", "eg3d"):
        raise UserError(
            f"cameras= are those of whole photos, so they do not fit crop={config.crop}"
        )
    for option, value, needed in (
        ("parsing.model", config.parsing.model, "parsing.label_set"),
        ("caption_source", config.caption_source == "model", "captioning.model"),
        ("landmark_source", config.landmark_source == "file", "landmarks"),
        ("landmark_source", config.landmark_source == "detector", "detection.model"),
    ):
        if value and OmegaConf.select(config, needed) is None:
            given = OmegaConf.select(config, option)
            raise UserError(f"{option}={given} needs {needed}= (see --help)")


def _find_task(config: DictConfig) -> Task:
    if config.check:
        return "check" if config.fix is None else "repair"
    if "maker" in config.dataset:
        return "procedural"
    return "photos" if "source" in config.dataset else "packed"


def _refuse_others(task: Task, words: Sequence[str]) -> None:
    for word in words:
        option = word.partition("=")[0].split(".")[0]
        if option in (*_EVERYWHERE, *_OPTIONS[task]):
            continue
        owners = [_NAMES[other] for other, options in _OPTIONS.items() if option in options]
        raise UserError(f"option {word} does nothing with {_NAMES[task]}; it is for {owners[0]}")
