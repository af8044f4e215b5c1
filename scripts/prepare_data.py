"""Write a data set in the project's on-disk format, which training reads, or check one."""

import logging
import sys
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
from mate3d.outputs.visualize import save_image
from scripts._check_data import check_data
from scripts._device import choose_device
from scripts._entry import run
from scripts._prepare_options import (
    FILE_OPTIONS,
    PHOTO_OPTIONS,
    PROCEDURAL_OPTIONS,
    check_photo_options,
    read_task,
)
from training.data.format import DatasetWriter
from training.data.preparation.photos import PhotoMaker, PhotoSettings, photo_jobs
from training.data.preparation.prepare import prepare_dataset
from training.data.preparation.preview import make_preview
from training.data.preparation.procedural import ProceduralMaker, procedural_jobs
from training.data.preparation.repack import RepackMaker
from training.data.preparation.samples import FailedSample, Job, Maker

_logger = logging.getLogger(__name__)


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
    words = list(sys.argv[1:] if argv is None else argv)
    run("prepare_data", lambda config: _main(config, words), words)


def _main(config: DictConfig, words: Sequence[str]) -> None:
    task = read_task(config, words)
    if task in ("check", "repair"):
        check_data(config)
        return
    plans = {"procedural": _plan_procedural, "photos": _plan_photos, "packed": _plan_repacking}
    _prepare(config, plans[task](config))


def _prepare(config: DictConfig, plan: _Plan) -> None:
    writer = DatasetWriter(
        Path(config.output),
        plan.label_set,
        overwrite=config.overwrite,
        shard_size=config.shard_size,
    )
    settings = {
        "dataset": OmegaConf.to_container(config.dataset),
        "resolution": config.resolution,
        **plan.settings,
    }
    num_samples = sum(len(job.names) for job in plan.jobs)
    # A moment later, so that an error of the options comes without a bar.
    with tqdm(total=num_samples, unit="img", delay=0.2) as bar:
        failed = prepare_dataset(
            plan.jobs,
            plan.maker,
            writer,
            settings,
            restart=config.restart,
            max_repeats=config.max_repeats,
            num_workers=config.num_workers,
            unusable=plan.unusable,
            on_progress=bar.update,
        )
    num_made = num_samples + len(plan.unusable) - len(failed)
    left_out = f", left out {len(failed)}" if failed else ""
    _logger.info("wrote %d images to %s%s", num_made, config.output, left_out)
    preview = Path(config.paths.run_folder) / "preview.png"
    save_image(preview, make_preview(writer.path))
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
        settings=_selected(config, PROCEDURAL_OPTIONS),
    )


def _read_numbers(config: DictConfig, option: str) -> dict[str, Any] | None:
    value = config[option]
    if value is not None and not isinstance(value, DictConfig):
        raise UserError(f"option {option}={value}; use numbers by name, such as {{ear_size:1.5}}")
    return None if value is None else OmegaConf.to_container(value)


def _plan_photos(config: DictConfig) -> _Plan:
    label_set = get_mask_label_set(config.dataset.label_set)
    files = {name: Path(str(config[name])) for name in FILE_OPTIONS if config[name] is not None}
    crop = config.crop or config.dataset.crop
    for name in ("images", "masks"):
        if name in files and files[name].resolve() in Path(config.output).resolve().parents:
            raise UserError(f"output={config.output} lies in {name}={files[name]}, which is read")
    check_photo_options(config)
    source = instantiate(config.dataset.source)(
        label_set=get_mask_label_set(config.mask_label_set or config.dataset.label_set),
        **{"masks": None, **files},
    )
    settings = PhotoSettings(
        resolution=config.resolution,
        crop=crop,
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
        _ = maker.models
    return _Plan(
        jobs=photo_jobs(listing.items),
        maker=maker,
        label_set=label_set,
        settings={**_selected(config, PHOTO_OPTIONS), "crop": crop},
        unusable=listing.unusable,
    )


def _plan_repacking(config: DictConfig) -> _Plan:
    name = config.dataset.label_set
    label_set = None if name is None else get_mask_label_set(name)
    maker = RepackMaker(str(config.data), label_set, config.resolution)
    for loss in maker.losses:
        _logger.info("masks: %s", loss)
    return _Plan(maker.jobs(), maker, maker.label_set, settings={"data": str(config.data)})


if __name__ == "__main__":
    main()
