"""Captions of photos from an image-to-text model of the `transformers` library."""

from pathlib import Path

import torch
from PIL import Image

from mate3d.errors import UserError
from mate3d.photo.pretrained_parts import load_network


class CaptionModel:
    """A network that describes a photo, such as BLIP.

    Args:
        location: Folder or hub id of an image-to-text model of `transformers`.
        max_new_tokens: Maximum length of a caption, in tokens.
        device: Device of the model.

    Raises:
        UserError: If the model cannot be loaded, or `max_new_tokens` is below 1.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        max_new_tokens: int = 40,
        device: str | torch.device = "cpu",
    ) -> None:
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens={max_new_tokens}; use an integer of at least 1")
        self._network, self._processor = load_network(
            location, "AutoModelForImageTextToText", "AutoProcessor", device=device
        )
        self._max_new_tokens = max_new_tokens

    @torch.no_grad()
    def caption(self, photo: Image.Image) -> str:
        """Return a one-line description of a photo; deterministic."""
        inputs = self._processor(images=photo.convert("RGB"), return_tensors="pt")
        tokens = self._network.generate(
            **inputs.to(self._network.device),
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
        )
        text = self._processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return " ".join(text.split())
