"""Latents of images and encodings of captions, computed once and kept on disk.

They are in shards of safetensors, each written atomically, so a killed run continues with the first
one missing. The folder's name has a hash of everything that the encodings depend on.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from mate3d.atomic import atomic_file, file_lock, remove_leftovers
from mate3d.checkpoints.storage import save_weights
from mate3d.diffusion.networks import PriorNetworks
from mate3d.errors import UserError
from torch_utils.distributed import barrier, broadcast_object, is_main, run_on_main, world
from training.prior.data import CaptionedDatasets, to_float
from training.prior.models import MAX_PIXELS, encode_captions

_SHARD_ITEMS = 256
_MAX_CAPTIONS = 64

_logger = logging.getLogger(__name__)
_Tensors = dict[str, Tensor]


class Encodings:
    """Tensors of many items by name, read when they are needed."""

    def __init__(self, shards: Sequence[_Tensors]):
        self._shards = shards

    def take(self, name: str, rows: Sequence[int]) -> Tensor:  # [B, ...]
        """Return the tensors of some items, as float32 if they are floating-point."""
        places = [divmod(row, _SHARD_ITEMS) for row in rows]
        tensors = [self._shards[shard][name][item] for shard, item in places]
        return torch.stack([t.float() if t.is_floating_point() else t for t in tensors])

    def whole(self, name: str) -> Tensor:  # [N, ...]
        """Return the tensors of all items."""
        return torch.cat([shard[name] for shard in self._shards])


def encode_images(
    folder: Path,
    dataset: CaptionedDatasets,
    vae: AutoencoderKL,
    device: torch.device,
    *,
    num_workers: int = 0,
) -> Encodings:
    """Return `mean` and `std` of the latents, `label_map` and `is_own` of all items.

    Args:
        folder: Receives a folder of shards, or has one.
        vae: Moves to the device if images have to be encoded, and then to the CPU.
        num_workers: Processes that read images.

    Raises:
        UserError: If a latent is not finite, or a file cannot be written.
    """

    def encode(rows: range) -> _Tensors:
        loader = DataLoader(
            Subset(dataset, rows),
            batch_size=max(1, MAX_PIXELS // dataset.resolution**2),
            num_workers=num_workers,
            # Otherwise it draws one of PyTorch's global random numbers; a resumed run must not.
            generator=torch.Generator(),
        )
        parts = []
        vae.to(device)
        for batch in loader:
            images = to_float(batch["image"]).to(device, vae.dtype)
            posterior = vae.encode(images).latent_dist
            read = {name: batch[name] for name in ("label_map", "is_own")}
            parts.append({"mean": posterior.mean.cpu(), "std": posterior.std.cpu()} | read)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def describe() -> list[bytes]:
        return [repr([dataset.resolution, *dataset.stamps()]).encode(), save(vae.state_dict())]

    encodings = _encode_once("latents", folder, len(dataset), describe, encode)
    vae.to("cpu")
    return encodings


def encode_texts(
    folder: Path, captions: Iterable[str], networks: PriorNetworks, device: torch.device
) -> Callable[[Sequence[str]], Tensor]:
    """Return a function from some of the captions to their encodings; see `encode_images`."""
    texts, encoder = sorted(set(captions)), networks.text_encoder

    def encode(rows: range) -> _Tensors:
        encoder.to(device)
        parts = torch.tensor(rows).split(_MAX_CAPTIONS)
        encodings = [encode_captions(networks, [texts[row] for row in part]) for part in parts]
        return {"text": torch.cat(encodings).cpu()}

    def describe() -> list[bytes]:
        tokens = networks.tokenizer(texts, truncation=True).input_ids
        return [repr(tokens).encode(), save(encoder.state_dict())]

    encodings = _encode_once("captions", folder, len(texts), describe, encode)
    encoder.to("cpu")
    numbers = {text: row for row, text in enumerate(texts)}
    return lambda chosen: encodings.take("text", [numbers[text] for text in chosen])


@torch.no_grad()
def _encode_once(
    what: str,
    folder: Path,
    num_items: int,
    describe: Callable[[], list[bytes]],
    encode: Callable[[range], _Tensors],
) -> Encodings:
    """Read memory-mapped shards; the processes divide those that are missing among themselves.

    Args:
        what: What is encoded, for messages and the name of the folder.
        describe: Returns everything that the encodings depend on.
        encode: Encodes a range of the items.
    """
    digest = hashlib.sha256()
    run_on_main(lambda: [digest.update(part) for part in describe()])
    folder = folder / f"{what}-{broadcast_object(digest.hexdigest()[:24])}"
    shards = [range(num_items)[i : i + _SHARD_ITEMS] for i in range(0, num_items, _SHARD_ITEMS)]
    paths = [folder / f"{rows.start:07d}.safetensors" for rows in shards]
    # Another run that uses the same folder waits here, and then finds them.
    with file_lock(folder / ".lock", "", patience_s=-1) if is_main() else nullcontext():
        run_on_main(lambda: remove_leftovers(folder))
        missing = broadcast_object([i for i, path in enumerate(paths) if not _is_readable(path)])
        if missing:
            _logger.info("encoding %s: %d of %d files", what, len(missing), len(paths))
        for number in missing[world().rank :: world().size]:
            tensors = encode(shards[number])
            # In half precision, what is not finite there is not either.
            if not all(tensor.half().isfinite().all() for tensor in tensors.values()):
                raise UserError(
                    f"the prior gives {what} that are not finite; use another precision or base"
                )
            with atomic_file(paths[number]) as temporary:
                save_weights(temporary, tensors, dtype=torch.float16)
        barrier()
    mib = sum(path.stat().st_size for path in paths) / 2**20
    _logger.info("%s: %d, %.1f MiB in %s", what, num_items, mib, folder)
    return Encodings([load_file(path) for path in paths])


def _is_readable(path: Path) -> bool:
    try:
        return bool(load_file(path))
    except (OSError, SafetensorError):
        return False
