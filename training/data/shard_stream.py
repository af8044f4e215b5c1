"""Sequential reading of tar shards, for many nodes and remote storage."""

import tarfile
from collections.abc import Iterator
from functools import partial
from itertools import count, islice

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_expander

from mate3d.errors import UserError
from training.data.dataset import Item, PortraitDataset, Unreadable, first_readable
from training.data.format.layout import IMAGE_SUFFIX, MASK_SUFFIX, name_from_key
from training.data.format.remote import describe, open_stream
from training.data.format.shards import ShardFiles, ShardTable

# Separate the random numbers for the order of shards and the order within shards.
_SHARD_ORDER, _BLOCK_ORDER = 1, 2

# Samples of a shard that are kept in memory, encoded, and shuffled together.
BLOCK_SIZE = 1000

_RawSample = tuple[str, bytes, bytes]  # Name, image PNG, mask PNG.


class ShardStream(IterableDataset):
    """Endless items, each with the samples skipped for it.

    The shuffled shards of all epochs form one endless sequence, of which reader i of n uses every
    n-th, starting with i; the shards of an epoch contain every item once. Readers do not wait for
    each other at the end of an epoch, so unequal shards let some get ahead. The order of shards is
    determined by seed and epoch; within a shard, blocks of `BLOCK_SIZE` samples are shuffled by
    seed, epoch and shard.

    Args:
        dataset: A dataset in shards.
        position: Items already used by all replicas; a multiple of their total batch size.
        rank: Index of this process among the replicas.
        num_replicas: Processes that share the shards.
        num_lanes: Readers per process.
        max_unreadable: Maximum number of unreadable samples per block; each is replaced by the
            next.

    Raises:
        UserError: If the dataset is not in shards, or has fewer shards than readers.
    """

    def __init__(
        self,
        dataset: PortraitDataset,
        *,
        seed: int,
        position: int,
        batch_size: int,
        rank: int,
        num_replicas: int,
        num_lanes: int,
        max_unreadable: int,
    ):
        if not isinstance(dataset.files, ShardFiles):
            raise UserError(
                f"dataset {dataset.path} is not in shards, so it cannot be streamed; rewrite it "
                "with shard_size=1000 (prepare_data dataset=packed), or set train.streaming=false"
            )
        tables = dataset.files.tables
        if len(tables) < num_replicas * num_lanes:
            raise UserError(
                f"dataset {dataset.path} has {len(tables)} shard(s) for {num_replicas} "
                f"process(es) with {num_lanes} reader(s) each; use at most {len(tables)} readers "
                "in total (train.num_workers), or smaller shards"
            )
        assert position % (batch_size * num_replicas) == 0, position
        self._dataset, self._seed, self._batch_size = dataset, seed, batch_size
        self._rank, self._num_replicas, self._num_lanes = rank, num_replicas, num_lanes
        self._num_batches = position // (batch_size * num_replicas)
        self._max_unreadable = max_unreadable
        self._samples = {name: sample for sample, name in enumerate(dataset.index.names)}
        self._blocks = [self._split(table) for table in tables]

    def __iter__(self) -> Iterator[tuple[Item, list[Unreadable]]]:
        info = get_worker_info()
        lane, to_skip = self._resume_point(0 if info is None else info.id)
        epoch, order = -1, np.empty(0, dtype=np.int64)
        num_items = [sum(map(len, blocks)) for blocks in self._blocks]
        first = self._rank + self._num_replicas * lane
        for position in count(first, self._num_replicas * self._num_lanes):
            if position // len(num_items) != epoch:
                epoch = position // len(num_items)
                order = self._permutation(len(num_items), _SHARD_ORDER, epoch)
            shard = int(order[position % len(num_items)])
            if to_skip < num_items[shard]:
                yield from self._read_shard(epoch, shard, to_skip)
            to_skip = max(to_skip - num_items[shard], 0)

    def _resume_point(self, worker: int) -> tuple[int, int]:
        """Return a worker's lane and the number of its items already used.

        Batches come from the lanes in turn, and a new loader starts with worker 0.
        """
        lane = (self._num_batches + worker) % self._num_lanes
        num_batches = -((lane - self._num_batches) // self._num_lanes)
        return lane, num_batches * self._batch_size

    def _split(self, table: ShardTable) -> list[np.ndarray]:
        """Return the entries of each block, encoded as 2 * row + is_mirrored."""
        repeats = self._dataset.index.repeats[[self._samples[name] for name in table.names]]
        blocks = []
        for start in range(0, len(repeats), BLOCK_SIZE):
            block = repeats[start : start + BLOCK_SIZE]
            entries = 2 * np.repeat(np.arange(len(block)), block)
            mirrored = [entries + 1] if self._dataset.with_flips else []
            blocks.append(np.concatenate([entries, *mirrored]))
        return blocks

    def _permutation(self, length: int, *key: int) -> np.ndarray:
        return np.random.default_rng((self._seed, *key)).permutation(length)

    def _read_shard(
        self, epoch: int, shard: int, to_skip: int
    ) -> Iterator[tuple[Item, list[Unreadable]]]:
        raw_samples = self._read_raw(self._dataset.files.tables[shard])
        block: list[_RawSample] = []
        for number, entries in enumerate(self._blocks[shard]):
            # Clear first: two blocks would double the memory.
            block.clear()
            block.extend(islice(raw_samples, len(np.unique(entries // 2))))
            order = entries[self._permutation(len(entries), _BLOCK_ORDER, epoch, shard, number)]
            for index in range(to_skip, len(order)):
                yield self._decode_or_replace(block, order, index)
            to_skip = max(to_skip - len(order), 0)
        next(raw_samples, None)

    def _decode_or_replace(
        self, block: list[_RawSample], order: np.ndarray, index: int
    ) -> tuple[Item, list[Unreadable]]:
        """Decode an entry, or the next readable one."""
        entries = (int(order[(index + step) % len(order)]) for step in range(len(order)))
        return first_readable(
            ((block[entry // 2][0], partial(self._decode, block, entry)) for entry in entries),
            self._max_unreadable,
        )

    def _decode(self, block: list[_RawSample], entry: int) -> Item:
        row, is_mirrored = divmod(entry, 2)
        name, image, mask = block[row]
        return self._dataset.decode(self._samples[name], image, mask, is_mirrored=bool(is_mirrored))

    def _read_raw(self, table: ShardTable) -> Iterator[_RawSample]:
        """Read a shard sequentially, checking it against its table."""
        url = self._dataset.files.url(table.file)
        expected = iter(table.names)
        with open_stream(url) as stream:
            try:
                for sample in group_by_keys(tar_file_expander([{"url": url, "stream": stream}])):
                    name = name_from_key(sample["__key__"])
                    image, mask = sample.get(IMAGE_SUFFIX[1:]), sample.get(MASK_SUFFIX[1:])
                    if image is None or mask is None or name != next(expected, None):
                        raise UserError(f"shard {url} does not match its index at {name}")
                    yield name, image, mask
            except UserError:
                raise
            except (tarfile.TarError, OSError, EOFError, ValueError) as error:
                raise UserError(f"shard {url} is damaged or truncated: {describe(error)}") from None
        missing = next(expected, None)
        if missing is not None:
            raise UserError(
                f"shard {url} is damaged or truncated: it ends before {missing}; its index lists "
                f"{len(table.names)} samples"
            )
