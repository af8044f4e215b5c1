"""Write a dataset in the project's on-disk format, which training reads, or check one."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mate3d.errors import UserError
from mate3d.labels import LabelSet, get_mask_label_set
from scripts._device import choose_device
from scripts._entry import run
from scripts._prepare_options import (
    CAPTION_OPTIONS,
    FILE_OPTIONS,
    PHOTO_OPTIONS,
    PROCEDURAL_OPTIONS,
    PrepareOptions,
    check_words,
)
from torch_utils.stages import stage

if TYPE_CHECKING:
    from training.data.preparation.listing import PhotoFiles
    from training.data.preparation.samples import FailedSample, Job, Maker

_logger = logging.getLogger(__name__)

OPTIONS = PrepareOptions


@dataclass(frozen=True)
class _Plan:
    """What is to be made."""

    jobs: "Sequence[Job]"
    maker: "Maker"
    label_set: LabelSet
    # Options that the samples depend on, besides dataset and resolution.
    settings: dict[str, Any]
    unusable: "Sequence[FailedSample]" = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script with the words of the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    run("prepare_data", lambda options: _main(options, words), words)


def _main(options: PrepareOptions, words: Sequence[str]) -> None:
    check_words(options, words)
    if options.check:
        from scripts._check_data import check_data

        check_data(options)
        return
    plans = {"procedural": _plan_procedural, "photos": _plan_photos, "packed": _plan_repacking}
    _prepare(options, plans[options.task](options))


def _prepare(options: PrepareOptions, plan: _Plan) -> None:
    from mate3d.outputs.visualize import save_image
    from training.data.format import DatasetWriter
    from training.data.preparation.prepare import prepare_dataset
    from training.data.preparation.preview import make_preview

    writer = DatasetWriter(
        Path(options.output),
        plan.label_set,
        overwrite=options.overwrite,
        shard_size=options.shard_size,
    )
    settings = {"dataset": asdict(options.dataset), "resolution": options.side, **plan.settings}
    failed = prepare_dataset(
        plan.jobs,
        plan.maker,
        writer,
        settings,
        restart=options.restart,
        max_repeats=options.max_repeats,
        num_workers=options.num_workers,
        unusable=plan.unusable,
    )
    num_made = sum(len(job.names) for job in plan.jobs) + len(plan.unusable) - len(failed)
    left_out = f", left out {len(failed)}" if failed else ""
    _logger.info("wrote %d images to %s%s", num_made, options.output, left_out)
    preview = Path(options.paths.run_folder) / "preview.png"
    save_image(preview, make_preview(writer.path))
    _logger.info("preview: %s", preview)


def _selected(options: PrepareOptions, names: Sequence[str]) -> dict[str, Any]:
    """Return the options that are set."""
    chosen = asdict(options)
    return {name: chosen[name] for name in names if chosen[name] not in (None, {})}


def _plan_procedural(options: PrepareOptions) -> _Plan:
    from mate3d.procedural.portraits import make_procedural_cat, make_procedural_person
    from training.data.preparation.procedural import ProceduralMaker, procedural_jobs

    dataset = options.dataset
    makers = {"procedural_cat": make_procedural_cat, "procedural_person": make_procedural_person}
    label_set = get_mask_label_set(dataset.label_set)
    make = partial(
        makers[dataset.source],
        resolution=options.side,
        supersampling=dataset.supersampling,
        variety=dataset.variety,
        attributes=options.set_attributes or None,
        factors=options.scale_attributes or None,
    )
    return _Plan(
        jobs=procedural_jobs(options.num_images, options.batch_size),
        maker=ProceduralMaker(make, options.seed, label_set),
        label_set=label_set,
        settings=_selected(options, PROCEDURAL_OPTIONS),
    )


def _make_source(options: PrepareOptions) -> "PhotoFiles":
    from training.data.preparation.sources import CatMaskHqSource, CelebAMaskHqSource, FolderSource

    dataset = options.dataset
    given = {name: getattr(options, name) for name in FILE_OPTIONS}
    files = {name: Path(path) for name, path in given.items() if path is not None}
    for name in ("images", "masks"):
        if name in files and files[name].resolve() in Path(options.output).resolve().parents:
            raise UserError(f"output={options.output} is inside the input {name}={files[name]}")
    makers = {
        "folder": partial(FolderSource, copies_from=dataset.copies_from),
        "catmask_hq": partial(CatMaskHqSource, swap_mouth_and_nose=dataset.swap_mouth_and_nose),
        "celebamask_hq": CelebAMaskHqSource,
    }
    label_set = get_mask_label_set(options.mask_label_set or dataset.label_set)
    return makers[dataset.source](label_set=label_set, **{"masks": None, **files})


def _plan_photos(options: PrepareOptions) -> _Plan:
    from training.data.preparation.photos import PhotoMaker, photo_jobs

    label_set = get_mask_label_set(options.dataset.label_set)
    crop = options.crop or options.dataset.crop
    source = _make_source(options)
    with stage("Listing the photos"):
        listing = source.list_items()
    maker = PhotoMaker(
        replace(options, crop=crop),
        source,
        label_set,
        resolution=options.side,
        framing=options.dataset.framing,
        device=choose_device(options.device),
    )
    for loss in maker.losses:
        _logger.info("masks: %s", loss)
    for note in listing.notes:
        _logger.info("%s", note)
    if options.num_workers == 0:
        with stage("Loading models"):
            _ = maker.models
    return _Plan(
        jobs=photo_jobs(listing.items),
        maker=maker,
        label_set=label_set,
        settings={**_selected(options, PHOTO_OPTIONS), "crop": crop},
        unusable=listing.unusable,
    )


def _plan_repacking(options: PrepareOptions) -> _Plan:
    from training.data.preparation.repack import RepackMaker

    name = options.dataset.label_set
    label_set = None if name is None else get_mask_label_set(name)
    device = choose_device(options.device)
    maker = RepackMaker(options.data, label_set, options.side, options, device)
    for loss in maker.losses:
        _logger.info("masks: %s", loss)
    if options.num_workers == 0:
        _ = maker.captioner
    settings = {"data": options.data, **_selected(options, CAPTION_OPTIONS)}
    return _Plan(maker.jobs(), maker, maker.label_set, settings)


if __name__ == "__main__":
    main()
