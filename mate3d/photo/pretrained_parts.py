"""Load networks of the `transformers` library from a folder or a hub id."""

import os
from pathlib import Path
from typing import Any

import torch

from mate3d.checkpoints.hub import is_hub_id
from mate3d.errors import UserError


def load_network(
    location: str | Path,
    network_class: str,
    processor_class: str,
    *,
    device: str | torch.device = "cpu",
) -> tuple[torch.nn.Module, Any]:
    """Return a frozen network and its input processor.

    Args:
        location: Folder written by `save_pretrained`, or a hub id. With HF_HUB_OFFLINE=1 only the
            local cache is used.
        network_class: Name of a `transformers` class, e.g. "AutoModelForSemanticSegmentation".
        processor_class: Name of a `transformers` class, e.g. "AutoImageProcessor".

    Raises:
        UserError: If the folder or hub repository does not exist, or has another kind of model.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    location = str(location)
    if Path(location).is_dir():
        if not (Path(location) / "config.json").is_file():
            raise UserError(
                f"model {location} has no config.json; use a `transformers` model folder"
            )
    elif not is_hub_id(location) or Path(location).parent.is_dir():
        raise UserError(f"model not found: {location}; use a folder or a hub id (owner/name)")
    options = {"local_files_only": os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")}
    try:
        processor = getattr(transformers, processor_class).from_pretrained(location, **options)
        network = getattr(transformers, network_class).from_pretrained(location, **options)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot load model {location}: {reason}") from None
    return network.eval().requires_grad_(False).to(device), processor
