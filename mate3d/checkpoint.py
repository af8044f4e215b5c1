"""Load and save generators as checkpoint folders: config.yaml, safetensors weights and a card."""

from pathlib import Path

import torch

from mate3d.atomic import atomic_folder
from mate3d.checkpoints.pretrained import write_model_files
from mate3d.generator import Generator


def save_generator(
    folder: str | Path,
    generator: Generator,
    *,
    card: str = "",
    dtype: torch.dtype | None = None,
) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: Replaced entirely if it exists.
        generator: Usually the EMA weights of a training run.
        card: Markdown: command, data, time, hardware, measured quality.
        dtype: Precision of the stored weights, e.g. torch.float16; None keeps their current type.

    Raises:
        UserError: If the folder cannot be written.
    """
    with atomic_folder(folder) as temporary:
        write_model_files(temporary, generator, card=card, dtype=dtype)


def load_generator(path_or_hub_id: str | Path, device: str | torch.device = "cpu") -> Generator:
    """Load a generator from a folder or the hub; see `Generator.from_pretrained`."""
    return Generator.from_pretrained(path_or_hub_id, device=device)
