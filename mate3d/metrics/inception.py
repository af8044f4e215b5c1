"""The Inception network behind published FID values, loaded from local weights."""

import hashlib
import pickle
from pathlib import Path

import torch
from torch import nn

from mate3d.errors import UserError

# File that torch-fidelity, used by torchmetrics, stores in the torch hub cache.
WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"
_NUM_FEATURES = 2048


def find_inception_weights(path: str | Path | None) -> Path | None:
    """Return the given weight file, or the one in the torch hub cache if there is one.

    Raises:
        UserError: If the given file does not exist.
    """
    if path is not None:
        if not Path(path).is_file():
            raise UserError(f"metrics.inception_weights={path}: file not found")
        return Path(path)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
    return cached if cached.is_file() else None


def load_inception(weights: Path, device: str | torch.device = "cpu") -> nn.Module:
    """Return the frozen network from uint8 images [B, 3, H, W] to features [B, 2048].

    Nothing in the file is executed.

    Raises:
        UserError: If torch-fidelity is not installed, or the file contains other weights.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        # Refuses anything but tensors, which the library's loader would execute.
        torch.load(weights, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"cannot read Inception weights {weights}: {first}") from None
    try:
        network = NoTrainInceptionV3(
            "inception-v3-compat", [str(_NUM_FEATURES)], feature_extractor_weights_path=str(weights)
        )
    except (RuntimeError, AttributeError, KeyError, TypeError):
        raise UserError(
            f"{weights} does not contain FID's Inception weights; use torch-fidelity's "
            f"{WEIGHTS_NAME}"
        ) from None
    except ModuleNotFoundError:
        raise UserError(
            "metrics.features=inception requires torch-fidelity: pip install torch-fidelity"
        ) from None
    network.num_features = _NUM_FEATURES
    return network.to(device).eval().requires_grad_(False)


def file_digest(path: Path) -> str:
    """Return a short hash of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
