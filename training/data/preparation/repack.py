"""Samples of an existing data set, for another format, resolution or label set."""

import numpy as np

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion
from mate3d.labels import LabelSet
from training.data.dataset import PortraitDataset
from training.data.format.layout import IMAGE_FOLDER, MASK_FOLDER, with_png_suffix
from training.data.preparation.samples import FailedSample, Job, PreparedSample, make_sample


class RepackMaker:
    """Make samples of those of a data set.

    Args:
        path: The data set, or its URL.
        label_set: To convert its masks to; None keeps its own.
        resolution: To reduce images and masks to, pixels; None keeps their size.

    Raises:
        UserError: If the data set is malformed, smaller than the resolution, or of labels that
            cannot be converted.
    """

    def __init__(self, path: str, label_set: LabelSet | None, resolution: int | None):
        self._dataset = PortraitDataset(path, resolution=resolution)
        self.label_set = label_set or self._dataset.label_set
        self._conversion = find_conversion(self._dataset.label_set, self.label_set)

    @property
    def losses(self) -> tuple[str, ...]:
        """What the conversion of labels loses, in sentences."""
        return self._conversion.losses

    def jobs(self) -> list[Job]:
        """Return one job a sample, called as the writer spells its name."""
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
