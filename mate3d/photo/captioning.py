"""Captions of photos from an image-to-text model of the `transformers` library."""

from pathlib import Path

import torch
from PIL import Image

from mate3d.photo.pretrained_parts import load_network

# Maximum length of a caption.
_MAX_TOKENS = 40


class CaptionModel:
    """A network that describes a photo, such as BLIP.

    Args:
        location: Folder or hub id of an image-to-text model of `transformers`.

    Raises:
        UserError: If the model cannot be loaded.
    """

    def __init__(self, location: str | Path, *, device: str | torch.device = "cpu") -> None:
        self._network, self._processor = load_network(
            location, "AutoModelForImageTextToText", "AutoProcessor", device=device
        )

    @torch.no_grad()
    def caption(self, photo: Image.Image) -> str:
        """Return a one-line description of a photo; deterministic."""
        inputs = self._processor(images=photo.convert("RGB"), return_tensors="pt")
        tokens = self._network.generate(
            **inputs.to(self._network.device), max_new_tokens=_MAX_TOKENS, do_sample=False
        )
        text = self._processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return " ".join(text.split())
