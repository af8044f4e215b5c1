"""Label maps of photos from a semantic segmentation model of the `transformers` library."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from mate3d.photo.pretrained_parts import load_network

# Class names used by released face parsers -> names in our label sets (normalised by `_plain`).
_SYNONYMS = {
    "eyeglasses": "eyeg",
    "glasses": "eyeg",
    "earring": "earr",
    "necklace": "neckl",
    "clothes": "cloth",
    "clothing": "cloth",
}


class SegmentationModel:
    """A network that labels every pixel of a photo with a class of a label set.

    Args:
        location: Folder or hub id of a semantic segmentation model of `transformers`.
        label_set: Label set whose ids the network predicts.

    Raises:
        UserError: If the model cannot be loaded, or its classes differ from the label set's.
    """

    def __init__(
        self,
        location: str | Path,
        label_set: LabelSet,
        *,
        device: str | torch.device = "cpu",
    ) -> None:
        self._network, self._processor = load_network(
            location, "AutoModelForSemanticSegmentation", "AutoImageProcessor", device=device
        )
        self.label_set = label_set
        _check_classes(str(location), dict(self._network.config.id2label), label_set)

    @torch.no_grad()
    def label_map(self, photo: Image.Image) -> np.ndarray:  # [H, W] uint8
        """Return the most likely class of each pixel of a photo.

        The scores of all classes are computed at full size, so crop large photos first.
        """
        inputs = self._processor(images=photo.convert("RGB"), return_tensors="pt")
        logits = self._network(inputs["pixel_values"].to(self._network.device)).logits
        assert logits.shape[1] == self.label_set.num_classes, logits.shape
        scores = torch.nn.functional.interpolate(
            logits.float(), size=photo.size[::-1], mode="bilinear", align_corners=False
        )
        return scores[0].argmax(dim=0).to(torch.uint8).cpu().numpy()


def _check_classes(location: str, id2label: dict[int, str], label_set: LabelSet) -> None:
    """Check the number of classes and any known class names against the label set."""
    names = [id2label[index] for index in sorted(id2label)]
    both = (
        f"the model has {', '.join(names)}; {label_set.name} has {', '.join(label_set.class_names)}"
    )
    if len(names) != label_set.num_classes:
        raise UserError(
            f"model {location} has {len(names)} classes but label set {label_set.name} has"
            f" {label_set.num_classes}: {both}"
        )
    known = {_plain(name) for name in label_set.class_names}
    for index, (name, wanted) in enumerate(zip(names, label_set.class_names, strict=True)):
        if _plain(name) in known and _plain(name) != _plain(wanted):
            raise UserError(
                f"model {location} has class {index} '{name}' where label set {label_set.name} has"
                f" '{wanted}'; use the model's own label set: {both}"
            )


def _plain(name: str) -> str:
    letters = re.sub(r"[^a-z0-9]", "", name.lower()).replace("eyebrow", "brow")
    letters = re.sub(r"^(left|right|upper|lower)", lambda side: side[0][0], letters)
    return _SYNONYMS.get(letters, letters)
