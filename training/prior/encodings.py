"""Latents of images and encodings of captions, computed once and kept on disk.

Both are in shards of safetensors, each written atomically, so a killed run continues with the
first one missing. Their folder is named by a hash of everything that they depend on.
"""

import hashlib
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
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
_Shard = dict[str, Tensor]


class EncodedImages:
    """Means and standard deviations of the latents of a dataset's images, and its label maps.

    Args:
        folder: Receives a folder of shards, or has one.
        dataset: The images.
        vae: Moves to `device` and back to the CPU if images are encoded.
        num_workers: Processes that read images.

    Raises:
        UserError: If a latent is not finite, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        dataset: CaptionedDatasets,
        vae: nn.Module,
        device: torch.device,
        *,
        num_workers: int = 0,
    ):
        def encode(rows: range) -> _Shard:
            batch_size = max(1, MAX_PIXELS // dataset.resolution**2)
            loader = DataLoader(Subset(dataset, rows), batch_size, num_workers=num_workers)
            means, stds, label_maps, is_own = [], [], [], []
            vae.to(device)
            # Starting a loader draws one of PyTorch's random numbers; a resumed run must not.
            with torch.random.fork_rng(devices=[]):
                batches = iter(loader)
            for batch in batches:
                images = to_float(batch["image"]).to(device, vae.dtype)
                posterior = vae.encode(images).latent_dist
                means.append(posterior.mean.half().cpu())
                stds.append(posterior.std.half().cpu())
                label_maps += [_pack(label_map) for label_map in batch["label_map"]]
                is_own.append(batch["is_own"])
            sizes = torch.tensor([len(packed) for packed in label_maps])
            return {
                "mean": torch.cat(means),
                "std": torch.cat(stds),
                "label_map": torch.cat(label_maps),
                "label_map_end": sizes.cumsum(0),
                "is_own": torch.cat(is_own),
            }

        def describe() -> Iterable[bytes]:
            yield repr(dataset.resolution).encode()
            yield from dataset.contents()
            yield from _contents(vae)

        self.resolution, self._device = dataset.resolution, device
        self._shards = _shards("latents", folder, len(dataset), describe, encode)
        vae.to("cpu")
        is_own = torch.cat([shard["is_own"] for shard in self._shards])
        # The others could not be read.
        self.rows = is_own.nonzero().flatten().tolist()

    def posterior(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:  # [B, 4, h, w] each
        """Return means and standard deviations, on the device."""
        places = [self._find(row) for row in rows]
        mean, std = (
            torch.stack([shard[name][item].float() for shard, item in places])
            for name in ("mean", "std")
        )
        return mean.to(self._device), std.to(self._device)

    def label_maps(self, rows: Sequence[int]) -> Tensor:  # [B, H, W] uint8
        """Return label maps, on the CPU."""
        content = bytearray().join(_unpack(*self._find(row)) for row in rows)
        values = torch.from_numpy(np.frombuffer(content, dtype=np.uint8))
        return values.view(-1, self.resolution, self.resolution)

    def deviation(self) -> float:
        """Return the standard deviation of all means."""
        return float(torch.cat([shard["mean"].flatten().float() for shard in self._shards]).std())

    def _find(self, row: int) -> tuple[_Shard, int]:
        return self._shards[row // _SHARD_ITEMS], row % _SHARD_ITEMS


class EncodedTexts:
    """Encodings of different captions by a frozen text encoder; see `EncodedImages`."""

    def __init__(
        self, folder: Path, captions: Iterable[str], networks: PriorNetworks, device: torch.device
    ):
        texts = sorted(set(captions))
        encoder = networks.text_encoder

        def encode(rows: range) -> _Shard:
            encoder.to(device)
            parts = torch.tensor(rows).split(_MAX_CAPTIONS)
            encodings = [encode_captions(networks, [texts[row] for row in part]) for part in parts]
            return {"text": torch.cat(encodings).half().cpu()}

        def describe() -> Iterable[bytes]:
            yield repr(networks.tokenizer(texts, truncation=True).input_ids).encode()
            yield from _contents(encoder)

        self._device = device
        self._rows = {text: row for row, text in enumerate(texts)}
        self._shards = _shards("captions", folder, len(texts), describe, encode)
        encoder.to("cpu")

    def __call__(self, captions: Sequence[str]) -> Tensor:  # [B, T, E]
        """Return the encodings of captions, on the device."""
        rows = [divmod(self._rows[caption], _SHARD_ITEMS) for caption in captions]
        encodings = [self._shards[shard]["text"][item].float() for shard, item in rows]
        return torch.stack(encodings).to(self._device)


@torch.no_grad()
def _shards(
    what: str,
    folder: Path,
    num_items: int,
    describe: Callable[[], Iterable[bytes]],
    encode: Callable[[range], _Shard],
) -> list[_Shard]:
    """Return memory-mapped shards; the processes divide those that are missing among themselves.

    Args:
        what: What is encoded, for messages and the name of the folder.
        describe: Yields everything that the encodings depend on.
        encode: Encodes a range of the items.
    """
    digest = hashlib.sha256()
    run_on_main(lambda: [digest.update(part) for part in describe()])
    folder = folder / f"{what}-{broadcast_object(digest.hexdigest()[:24])}"
    starts = range(0, num_items, _SHARD_ITEMS)
    paths = [folder / f"{start:07d}.safetensors" for start in starts]
    with ExitStack() as stack:
        if is_main():
            # Another run that uses the same folder waits here, and then finds them.
            stack.enter_context(file_lock(folder / ".lock", "", patience_s=-1))
            remove_leftovers(folder)
        missing = broadcast_object([i for i in range(len(paths)) if _read(paths[i]) is None])
        if missing and is_main():
            _logger.info("encoding %s: %d of %d shards", what, len(missing), len(paths))
        for number in missing[world().rank :: world().size]:
            rows = range(starts[number], min(starts[number] + _SHARD_ITEMS, num_items))
            shard = encode(rows)
            _require_finite(what, shard)
            with atomic_file(paths[number]) as temporary:
                save_weights(temporary, shard)
        barrier()
    shards = [_read(path) for path in paths]
    if is_main():
        num_bytes = sum(path.stat().st_size for path in paths)
        mib = num_bytes / 2**20
        _logger.info("%s: %d, %.1f MiB in %s", what, num_items, mib, folder)
    return shards


def _read(path: Path) -> _Shard | None:
    """Return the tensors of a shard without reading them yet, or None if it has to be written."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _require_finite(what: str, shard: _Shard) -> None:
    if not all(tensor.isfinite().all() for tensor in shard.values()):
        network = "autoencoder" if what == "latents" else "text encoder"
        raise UserError(
            f"the prior's {network} gives {what} that are not finite; use another precision or "
            "prior.base"
        )


def _pack(label_map: Tensor) -> Tensor:  # [H, W] uint8 -> [bytes] uint8
    packed = zlib.compress(label_map.numpy().tobytes(), 1)
    return torch.from_numpy(np.frombuffer(packed, dtype=np.uint8).copy())


def _unpack(shard: _Shard, item: int) -> bytes:
    start, end = [0, *shard["label_map_end"][: item + 1].tolist()][item : item + 2]
    return zlib.decompress(shard["label_map"][start:end].numpy().tobytes())


def _contents(module: nn.Module) -> Iterable[bytes]:
    """Yield names and contents of a network's tensors."""
    for name, tensor in module.state_dict().items():
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        yield tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
