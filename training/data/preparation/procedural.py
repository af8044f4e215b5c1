"""Make samples from procedural portraits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mate3d.labels import LabelSet
from mate3d.outputs.visualize import to_uint8
from mate3d.procedural.attributes import Number
from mate3d.procedural.portraits import ProceduralPortraits
from training.data.format import image_name
from training.data.preparation.samples import Job, PreparedSample, make_sample


def procedural_jobs(num_images: int, batch_size: int) -> list[Job]:
    """Return jobs of up to `batch_size` images, numbered from 0."""
    jobs = []
    for start in range(0, num_images, batch_size):
        indices = range(start, min(start + batch_size, num_images))
        jobs.append(Job(tuple(image_name(index) for index in indices), indices))
    return jobs


@dataclass(frozen=True)
class ProceduralMaker:
    """Makes the samples of a job.

    Args:
        make: Makes the portraits of a list of seeds.
        seed: Seed of the dataset; determines every image.
        label_set: Label set of the portraits.
    """

    make: Callable[[list[int]], ProceduralPortraits]
    seed: int
    label_set: LabelSet

    def __call__(self, job: Job) -> list[PreparedSample]:
        portraits = self.make([_image_seed(self.seed, index) for index in job.payload])
        images = to_uint8(portraits.render.image)
        label_maps = portraits.render.label_map.numpy().astype(np.uint8)
        return [
            make_sample(
                name,
                images[row],
                label_maps[row],
                self.label_set,
                portraits.camera[row].tolist(),
                caption=portraits.captions[row],
                attributes=_rounded(portraits.attributes[row]),
            )
            for row, name in enumerate(job.names)
        ]


def _rounded(attributes: Mapping[str, Number]) -> dict[str, Number]:
    """Round to the precision of float32."""
    return {
        name: [_round(v) for v in value] if isinstance(value, list) else _round(value)
        for name, value in attributes.items()
    }


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _image_seed(seed: int, index: int) -> int:
    """Return each image's own seed, a fixed function of both numbers."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0])
