"""Samples of an existing data set, for another format, resolution or label set."""

import numpy as np

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion
from mate3d.labels import LabelSet
from training.data import PortraitDataset
from training.dataset_io.layout import IMAGE_FOLDER, MASK_FOLDER
from training.preparation.samples import FailedSample, Job, PreparedSample, make_sample


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
        """Return one job a sample."""
        return [Job((name,), number) for number, name in enumerate(self._dataset.index.names)]

    def __call__(self, job: Job) -> list[PreparedSample | FailedSample]:
        (name,), number = job.names, job.payload
        try:
            return [self._make(name, number)]
        except UserError as error:
            return [FailedSample(name, str(error))]

    def _make(self, name: str, number: int) -> PreparedSample:
        files, index = self._dataset.files, self._dataset.index
        image, mask = (files.read(folder + name) for folder in (IMAGE_FOLDER, MASK_FOLDER))
        item = self._dataset.decode(number, image, mask)
        residual = float(index.residuals[number])
        return make_sample(
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
