"""Write a data set in the project's on-disk format, which training reads."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from mate3d.errors import UserError
from mate3d.labels import get_mask_label_set
from mate3d.procedural.portraits import ProceduralPortraits
from mate3d.visualize import to_uint8
from scripts._entry import run
from training.dataset_io import DatasetWriter, image_name

_logger = logging.getLogger(__name__)

_MINIMA = {"num_images": 1, "resolution": 1, "batch_size": 1, "num_workers": 0, "seed": 0}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script with the words of the command line."""
    run("prepare_data", _prepare, argv)


def _prepare(config: DictConfig) -> None:
    for option, minimum in _MINIMA.items():
        if config[option] < minimum:
            raise UserError(f"option {option}={config[option]} must be at least {minimum}")
    label_set = get_mask_label_set(config.dataset.label_set)
    starts = range(0, config.num_images, config.batch_size)
    batches = [range(s, min(s + config.batch_size, config.num_images)) for s in starts]
    make = partial(instantiate(config.dataset.maker), resolution=config.resolution)
    with (
        DatasetWriter(config.output, label_set, overwrite=config.overwrite) as writer,
        tqdm(total=config.num_images, unit="img") as bar,
    ):
        for portraits, indices in zip(
            _render_all(make, config.seed, batches, config.num_workers), batches, strict=True
        ):
            _write(writer, portraits, indices)
            bar.update(len(indices))
    _logger.info("wrote %d images to %s", config.num_images, config.output)


def _render_all(
    make: Callable[..., ProceduralPortraits],
    seed: int,
    batches: Sequence[range],
    num_workers: int,
) -> Iterator[ProceduralPortraits]:
    """Yield the batches in order, made here or by worker processes."""
    seeds = [[_image_seed(seed, index) for index in indices] for indices in batches]
    if num_workers == 0:
        yield from map(make, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(num_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.imap(make, seeds)


def _image_seed(seed: int, index: int) -> int:
    """Return a seed of its own for each image, a fixed function of both numbers."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])


def _write(writer: DatasetWriter, portraits: ProceduralPortraits, indices: range) -> None:
    images = to_uint8(portraits.render.image)
    label_maps = portraits.render.label_map.numpy().astype(np.uint8)
    for row, index in enumerate(indices):
        writer.add(
            image_name(index),
            images[row],
            label_maps[row],
            portraits.camera[row].tolist(),
            portraits.captions[row],
        )


if __name__ == "__main__":
    main()
