"""CLIP score (Hessel et al. 2021) of a picture and a text, through torchmetrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPModel, CLIPProcessor

from mate3d.errors import UserError


class _PlainCLIPModel(CLIPModel):
    """Returns features as tensors, as torchmetrics expects; later releases wrap them."""

    def get_image_features(self, *args: Any, **options: Any) -> Tensor:
        return _features(super().get_image_features(*args, **options))

    def get_text_features(self, *args: Any, **options: Any) -> Tensor:
        return _features(super().get_text_features(*args, **options))


def _features(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


class ClipScore:
    """100 times the cosine of a picture's and a text's CLIP embeddings, at least 0.

    Args:
        model: Folder, or hub id whose files are in the local cache; nothing is downloaded.

    Raises:
        UserError: If there are no such files, or they are damaged.
    """

    def __init__(self, model: str | Path, device: str | torch.device = "cpu"):
        try:
            networks = _PlainCLIPModel.from_pretrained(model, local_files_only=True)
            self._processor = CLIPProcessor.from_pretrained(model, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"no CLIP weights at '{model}': {reason}") from None
        self._model = networks.to(device).eval().requires_grad_(False)

    def __call__(
        self,
        levels: Tensor,  # [B, 3, H, W], integers in 0..255
        texts: Sequence[str],  # B
    ) -> float:
        """Return the mean score of pairs of picture and text."""
        pictures = list(levels.to(self._model.device, torch.uint8))
        return clip_score(pictures, list(texts), lambda: (self._model, self._processor)).item()
