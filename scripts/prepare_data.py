"""Write a data set in the project's on-disk format, which training reads, or check one."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from mate3d.errors import UserError
from mate3d.labels import LabelSet, get_mask_label_set
from mate3d.visualize import save_image
from scripts._check_data import CHECK_OPTIONS, check_data
from scripts._device import choose_device
from scripts._entry import run
from training.preparation.engine import Maker
from training.preparation.photos import PhotoMaker, PhotoSettings
from training.preparation.prepare import OutputSettings, prepare_dataset
from training.preparation.preview import make_preview
from training.preparation.procedural import ProceduralMaker, procedural_jobs
from training.preparation.repack import RepackMaker
from training.preparation.samples import FailedSample, Job

_logger = logging.getLogger(__name__)

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
_PHOTO_OPTIONS = (
    "images",
    "masks",
    "mask_label_set",
    "cameras",
    "landmarks",
    "captions",
    "attributes",
    "crop",
    "landmark_source",
    "max_residual",
    "camera_distance",
    "caption_source",
    "parsing",
    "captioning",
    "detection",
)
# Options that only photos have, null without them.
_FILE_OPTIONS = ("images", "masks", "cameras", "landmarks", "captions", "attributes")
_PROCEDURAL_OPTIONS = ("num_images", "seed", "batch_size", "set_attributes", "scale_attributes")


@dataclass(frozen=True)
class _Plan:
    """What is to be made."""

    jobs: Sequence[Job]
    maker: Maker
    label_set: LabelSet
    # What the samples depend on, beside data set and resolution.
    settings: dict[str, Any]
    unusable: Sequence[FailedSample] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script with the words of the command line."""
    run("prepare_data", _main, argv)


def _main(config: DictConfig) -> None:
    for option, minimum in _MINIMA.items():
        if config[option] is not None and config[option] < minimum:
            raise UserError(f"option {option}={config[option]} must be at least {minimum}")
    for option, allowed in _CHOICES.items():
        if config[option] is not None and config[option] not in allowed:
            raise UserError(f"option {option}={config[option]}; use {', '.join(allowed)}")
    if config.check:
        check_data(config)
        return
    for option in CHECK_OPTIONS:
        if config[option] is not None:
            raise UserError(f"option {option}={config[option]} belongs to check=true")
    if not config.output:
        raise UserError("missing value, please give: output=... (see --help)")
    _prepare(config)


def _refuse_stray_options(config: DictConfig) -> None:
    is_packed = not {"maker", "source"} & set(config.dataset)
    for option in () if "source" in config.dataset else _FILE_OPTIONS:
        if config[option] is not None:
            raise UserError(
                f"option {option}={config[option]} belongs to photos; choose dataset=folder, "
                "ffhq_mask, celebamask_hq or catmask_hq"
            )
    if config.data is not None and not is_packed:
        raise UserError(f"option data={config.data} belongs to check=true or dataset=packed")


def _prepare(config: DictConfig) -> None:
    _refuse_stray_options(config)
    if "maker" in config.dataset:
        plan = _plan_procedural(config)
    elif "source" in config.dataset:
        plan = _plan_photos(config)
    else:
        plan = _plan_repacking(config)
    output = OutputSettings(
        path=Path(config.output),
        label_set=plan.label_set,
        overwrite=config.overwrite,
        restart=config.restart,
        shard_size=config.shard_size,
        max_repeats=config.max_repeats,
        num_workers=config.num_workers,
    )
    settings = {
        "dataset": OmegaConf.to_container(config.dataset),
        "resolution": config.resolution,
        **plan.settings,
    }
    num_samples = sum(len(job.names) for job in plan.jobs)
    with tqdm(total=num_samples, unit="img") as bar:
        failed = prepare_dataset(
            plan.jobs,
            plan.maker,
            output,
            settings,
            unusable=plan.unusable,
            on_progress=bar.update,
        )
    num_made = num_samples + len(plan.unusable) - len(failed)
    left_out = f", left out {len(failed)}" if failed else ""
    _logger.info("wrote %d images to %s%s", num_made, config.output, left_out)
    preview = Path(config.paths.run_folder) / "preview.png"
    save_image(preview, make_preview(output.path))
    _logger.info("look at %s", preview)


def _selected(config: DictConfig, options: Sequence[str]) -> dict[str, Any]:
    """Return those of the options that are set."""
    chosen = OmegaConf.to_container(config)
    return {option: chosen[option] for option in options if chosen[option] is not None}


def _plan_procedural(config: DictConfig) -> _Plan:
    label_set = get_mask_label_set(config.dataset.label_set)
    make = partial(
        instantiate(config.dataset.maker),
        resolution=config.resolution,
        attributes=_read_numbers(config, "set_attributes"),
        factors=_read_numbers(config, "scale_attributes"),
    )
    return _Plan(
        jobs=procedural_jobs(config.num_images, config.batch_size),
        maker=ProceduralMaker(make, config.seed, label_set),
        label_set=label_set,
        settings=_selected(config, _PROCEDURAL_OPTIONS),
    )


def _read_numbers(config: DictConfig, option: str) -> dict[str, Any] | None:
    value = config[option]
    if value is not None and not isinstance(value, DictConfig):
        raise UserError(f"option {option}={value}; use numbers by name, such as {{ear_size:1.5}}")
    return None if value is None else OmegaConf.to_container(value)


def _plan_photos(config: DictConfig) -> _Plan:
    if config.images is None:
        raise UserError("missing value, please give: images=FOLDER (see --help)")
    label_set = get_mask_label_set(config.dataset.label_set)
    files = {name: Path(str(config[name])) for name in _FILE_OPTIONS if config[name] is not None}
    if "masks" not in files and config.parsing.model is None:
        raise UserError("photos need masks=FOLDER, or parsing.model= to make them (see --help)")
    if config.caption_source == "model" and config.captioning.model is None:
        raise UserError("caption_source=model needs captioning.model=")
    if config.parsing.model is not None and config.parsing.label_set is None:
        raise UserError("parsing.model= needs parsing.label_set=, what its classes mean")
    source = instantiate(config.dataset.source)(
        label_set=get_mask_label_set(config.mask_label_set or config.dataset.label_set),
        **{"masks": None, **files},
    )
    settings = PhotoSettings(
        resolution=config.resolution,
        crop=config.crop or config.dataset.crop,
        framing=config.dataset.framing,
        landmark_source=config.landmark_source,
        max_residual=config.max_residual,
        camera_distance=config.camera_distance,
        caption_source=config.caption_source,
        parsing_model=config.parsing.model,
        parsing_label_set=config.parsing.label_set,
        captioning_model=config.captioning.model,
        detection_model=config.detection.model,
        device=str(choose_device(config.device)),
    )
    listing = source.list_items()
    maker = PhotoMaker(settings, source, label_set)
    for loss in maker.losses:
        _logger.info("masks: %s", loss)
    for note in listing.notes:
        _logger.info("%s", note)
    if config.num_workers == 0:
        maker.load_models()
    return _Plan(
        jobs=[Job((item.name,), item) for item in listing.items],
        maker=maker,
        label_set=label_set,
        settings={**_selected(config, _PHOTO_OPTIONS), "crop": settings.crop},
        unusable=[FailedSample(name, reason) for name, reason in listing.unusable],
    )


def _plan_repacking(config: DictConfig) -> _Plan:
    if config.data is None:
        raise UserError("missing value, please give: data=DATASET (see --help)")
    name = config.dataset.label_set
    label_set = None if name is None else get_mask_label_set(name)
    maker = RepackMaker(str(config.data), label_set, config.resolution)
    for loss in maker.losses:
        _logger.info("masks: %s", loss)
    return _Plan(maker.jobs(), maker, maker.label_set, settings={"data": str(config.data)})


if __name__ == "__main__":
    main()
