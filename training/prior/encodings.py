"""Latents of images and encodings of captions, computed once and kept on disk.

They are in shards of safetensors, each written atomically, so a killed run continues with the first
one missing. The folder's name has a hash of everything that the encodings depend on.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
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
        batch_size = max(1, MAX_PIXELS // dataset.resolution**2)
        loader = DataLoader(Subset(dataset, rows), batch_size, num_workers=num_workers)
        parts = []
        vae.to(device)
        # Starting a loader draws one of PyTorch's random numbers; a resumed run must not.
        with torch.random.fork_rng(devices=[]):
            batches = iter(loader)
        for batch in batches:
            images = to_float(batch["image"]).to(device, vae.dtype)
            posterior = vae.encode(images).latent_dist
            read = {name: batch[name] for name in ("label_map", "is_own")}
            parts.append({"mean": posterior.mean.cpu(), "std": posterior.std.cpu()} | read)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    contents = chain([repr(dataset.resolution).encode()], dataset.contents(), _contents(vae))
    shards = _encode_once("latents", folder, len(dataset), contents, encode)
    vae.to("cpu")
    return Encodings(shards)


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

    tokens = networks.tokenizer(texts, truncation=True).input_ids
    contents = chain([repr(tokens).encode()], _contents(encoder))
    encodings = Encodings(_encode_once("captions", folder, len(texts), contents, encode))
    encoder.to("cpu")
    numbers = {text: row for row, text in enumerate(texts)}
    return lambda chosen: encodings.take("text", [numbers[text] for text in chosen])


@torch.no_grad()
def _encode_once(
    what: str,
    folder: Path,
    num_items: int,
    contents: Iterable[bytes],
    encode: Callable[[range], _Tensors],
) -> list[_Tensors]:
    """Return memory-mapped shards; the processes divide those that are missing among themselves.

    Args:
        what: What is encoded, for messages and the name of the folder.
        contents: Everything that the encodings depend on; only the main process reads it.
        encode: Encodes a range of the items.
    """
    digest = hashlib.sha256()
    run_on_main(lambda: [digest.update(part) for part in contents])
    folder = folder / f"{what}-{broadcast_object(digest.hexdigest()[:24])}"
    starts = range(0, num_items, _SHARD_ITEMS)
    paths = [folder / f"{start:07d}.safetensors" for start in starts]
    with ExitStack() as stack:
        if is_main():
            # Another run that uses the same folder waits here, and then finds them.
            stack.enter_context(file_lock(folder / ".lock", "", patience_s=-1))
            remove_leftovers(folder)
        missing = broadcast_object([i for i, path in enumerate(paths) if _read(path) is None])
        if missing:
            _logger.info("encoding %s: %d of %d files", what, len(missing), len(paths))
        for number in missing[world().rank :: world().size]:
            rows = range(starts[number], min(starts[number] + _SHARD_ITEMS, num_items))
            tensors = encode(rows)
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
    return [load_file(path) for path in paths]


def _read(path: Path) -> _Tensors | None:
    """Return the memory-mapped tensors of a file, or None if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _contents(module: nn.Module) -> Iterator[bytes]:
    """Yield names and contents of a network's tensors."""
    for name, tensor in module.state_dict().items():
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        yield tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
