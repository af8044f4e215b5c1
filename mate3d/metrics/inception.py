"""The Inception network of published FID values, from weights that are on this machine."""

import hashlib
import pickle
from pathlib import Path

import torch
from torch import nn

from mate3d.errors import UserError

# File that torch-fidelity, which torchmetrics builds on, keeps in the torch hub's cache.
WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"
_NUM_FEATURES = 2048


def find_inception_weights(path: str | Path | None) -> Path | None:
    """Return the file of weights: the given one, else that of the torch hub's cache, if there.

    Raises:
        UserError: If a path is given where no file is.
    """
    if path is not None:
        if not Path(path).is_file():
            raise UserError(f"metrics.inception_weights={path}: there is no such file")
        return Path(path)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
    return cached if cached.is_file() else None


def load_inception(weights: Path, device: str | torch.device = "cpu") -> nn.Module:
    """Return the network from uint8 images [B, 3, H, W] to features [B, 2048], frozen.

    Nothing in the file is executed.

    Raises:
        UserError: If torch-fidelity is not installed, or the file holds other weights.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    _check_is_plain(weights)
    try:
        network = NoTrainInceptionV3(
            "inception-v3-compat", [str(_NUM_FEATURES)], feature_extractor_weights_path=str(weights)
        )
    except (RuntimeError, AttributeError, KeyError, TypeError):
        raise UserError(
            f"{weights} does not hold FID's Inception weights, torch-fidelity's {WEIGHTS_NAME}"
        ) from None
    except ModuleNotFoundError:
        raise UserError(
            "metrics.features=inception needs a package that is missing: pip install torch-fidelity"
        ) from None
    network.num_features = _NUM_FEATURES
    return network.to(device).eval().requires_grad_(False)


def file_digest(path: Path) -> str:
    """Return a short name of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _check_is_plain(weights: Path) -> None:
    """Refuse files that hold more than tensors: the library's own loader would run it."""
    try:
        torch.load(weights, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"Inception weights {weights} cannot be read: {first}") from None
