"""Convert an existing dataset to another format, resolution or label set."""

import numpy as np

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion
from mate3d.labels import LabelSet
from training.data.dataset import PortraitDataset
from training.data.format.layout import IMAGE_FOLDER, MASK_FOLDER, with_png_suffix
from training.data.preparation.samples import FailedSample, Job, PreparedSample, make_sample


class RepackMaker:
    """Makes samples from those of a dataset.

    Args:
        path: Path or URL of the dataset.
        label_set: Label set to convert masks to; None keeps the current one.
        resolution: Side to downscale images and masks to, in pixels; None keeps their size.

    Raises:
        UserError: If the dataset is malformed or smaller than the resolution, or its labels cannot
            be converted.
    """

    def __init__(self, path: str, label_set: LabelSet | None, resolution: int | None):
        self._dataset = PortraitDataset(path, resolution=resolution)
        self.label_set = label_set or self._dataset.label_set
        self._conversion = find_conversion(self._dataset.label_set, self.label_set)

    @property
    def losses(self) -> tuple[str, ...]:
        """What the label conversion loses, in sentences."""
        return self._conversion.losses

    def jobs(self) -> list[Job]:
        """Return one job per sample, with names as used by the writer."""
        names = enumerate(self._dataset.index.names)
        return [Job((with_png_suffix(name),), number) for number, name in names]

    def __call__(self, job: Job) -> list[PreparedSample | FailedSample]:
        (name,), number = job.names, job.payload
        files, index = self._dataset.files, self._dataset.index
        source, residual = index.names[number], float(index.residuals[number])
        try:
            pair = (files.read(folder + source) for folder in (IMAGE_FOLDER, MASK_FOLDER))
            item = self._dataset.decode(number, *pair)
        except UserError as error:
            return [FailedSample(name, str(error))]
        sample = make_sample(
            name,
            item["image"].permute(1, 2, 0).numpy(),
            self._conversion.apply(item["label_map"].numpy()),
            self.label_set,
            item["camera"].tolist(),
            caption=item["caption"],
            residual=None if np.isnan(residual) else residual,
            repeats=int(index.repeats[number]),
            attributes=index.attributes[number],
        )
        return [sample]
