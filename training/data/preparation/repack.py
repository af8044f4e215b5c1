"""Convert an existing dataset to another format, resolution or label set; add captions."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion
from mate3d.labels import LabelSet
from mate3d.photo.captioning import CaptionModel
from training.data.dataset import Item, PortraitDataset
from training.data.format.layout import IMAGE_FOLDER, MASK_FOLDER, with_png_suffix
from training.data.preparation.captions import write_caption
from training.data.preparation.photo_options import PhotoOptions
from training.data.preparation.samples import (
    FailedSample,
    Job,
    PreparedSample,
    item_key,
    make_sample,
)
from training.data.preparation.side_files import read_captions


class RepackMaker:
    """Makes samples from those of a dataset.

    Args:
        path: Path or URL of the dataset.
        label_set: Label set to convert masks to; None keeps the current one.
        resolution: Side to downscale images and masks to, in pixels; None keeps their size.
        options: Where captions come from. Those of a file or a network replace the dataset's own;
            words for labels are only for images without a caption.
        device: Where the captioning network runs.

    Raises:
        UserError: If the dataset is malformed or smaller than the resolution, its labels cannot be
            converted, or the file of captions does not fit.
    """

    def __init__(
        self,
        path: str,
        label_set: LabelSet | None,
        resolution: int | None,
        options: PhotoOptions,
        device: torch.device,
    ):
        self._dataset = PortraitDataset(path, resolution=resolution)
        self.label_set = label_set or self._dataset.label_set
        self._conversion = find_conversion(self._dataset.label_set, self.label_set)
        self._options, self._device = options, device
        self._captions: dict[str, str] = {}
        if options.captions is not None:
            found = read_captions(Path(options.captions)).values
            self._captions = {item_key(name): text for name, text in found.items()}
            if not self._captions.keys() & set(map(item_key, self._dataset.index.names)):
                raise UserError(f"captions {options.captions}: no name is an image of {path}")

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
            caption=self._write_caption(source, item, index.attributes[number]),
            residual=None if np.isnan(residual) else residual,
            repeats=int(index.repeats[number]),
            attributes=index.attributes[number],
        )
        return [sample]

    @cached_property
    def captioner(self) -> CaptionModel | None:
        """The captioning network, loaded by each process; None if captions come from elsewhere."""
        if self._options.caption_source != "model":
            return None
        return CaptionModel(self._options.captioning.model, device=self._device)

    def _write_caption(self, name: str, item: Item, attributes: Mapping[str, Any]) -> str:
        own = item["caption"] if self.captioner is None else ""
        caption = self._captions.get(item_key(name)) or own
        if caption:
            return caption
        photo = Image.fromarray(item["image"].permute(1, 2, 0).numpy())
        shown = (photo, item["label_map"].numpy(), self._dataset.label_set)
        return write_caption(self._options.caption_source, self.captioner, *shown, attributes)
