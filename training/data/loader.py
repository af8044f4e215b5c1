"""Endless batches of a dataset, in an order that can be resumed at any position."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from mate3d.errors import UserError
from training.data.dataset import Item, PortraitDataset, Unreadable, require_few
from training.data.format.shards import ShardFiles
from training.data.shard_stream import ShardStream

MAX_UNREADABLE = 10

# User-facing names of the parts of a state that determine the order; the last three are only for
# streams.
_ORDER_WORDS = {
    "streaming": "train.streaming",
    "num_items": "the number of items in the dataset",
    "digest": "the dataset (names, repeats, label set, flips or shards)",
    "batch_size": "the batch size of each process",
    "num_replicas": "the number of processes",
    "num_workers": "train.num_workers",
}

_logger = logging.getLogger(__name__)


def infinite_order(
    num_items: int, *, seed: int = 0, position: int = 0, rank: int = 0, num_replicas: int = 1
) -> Iterator[int]:
    """Yield indices endlessly; each epoch is a permutation determined by seed and epoch.

    Args:
        position: Number of indices already used, over all replicas.
        rank: Index of this process among the replicas.
        num_replicas: Processes that share the sequence; each uses every `num_replicas`-th index.
    """
    assert num_items > 0 and 0 <= rank < num_replicas, (num_items, rank, num_replicas)
    position += rank
    while True:
        epoch, offset = divmod(position, num_items)
        order = np.random.default_rng((seed, epoch)).permutation(num_items)
        for index in order[offset::num_replicas]:
            yield int(index)
            position += num_replicas


def infinite_batches(num_items: int, batch_size: int, **order: int) -> Iterator[list[int]]:
    """Yield the indices of `infinite_order` in batches, of this process's samples."""
    indices = infinite_order(num_items, **order)
    while True:
        yield [next(indices) for _ in range(batch_size)]


class BatchStream(Iterator[dict[str, Any]]):
    """Endless batches that track their position, so that a resumed run gets the same ones.

    Tensors are stacked, captions are a list. Each unreadable sample is logged once and replaced by
    another, chosen only by dataset and order.

    Args:
        loader: Batches of a dataset, each with the samples skipped for it.
        state: Start position, everything that determines the order, and under `unreadable` the
            reasons of samples skipped earlier, by name.
        num_replicas: Processes that share the sequence.
        max_unreadable: Maximum number of different unreadable samples of this process.
        unreadable: Further samples that were skipped and logged earlier.
    """

    def __init__(
        self,
        loader: DataLoader,
        state: dict[str, Any],
        *,
        num_replicas: int = 1,
        max_unreadable: int = MAX_UNREADABLE,
        unreadable: Sequence[Unreadable] = (),
    ):
        self._batches = iter(loader)
        self._state = dict(state)
        self._num_replicas = num_replicas
        self._max_unreadable = max_unreadable
        before = self._state.pop("unreadable", {})
        self._unreadable = {name: Unreadable(name, reason) for name, reason in before.items()}
        self._unreadable |= {entry.name: entry for entry in unreadable}

    @property
    def num_unreadable(self) -> int:
        """Number of different samples skipped so far."""
        return len(self._unreadable)

    def state_dict(self) -> dict[str, Any]:
        """Return the state with which `make_loader` resumes after the last returned batch."""
        return {**self._state, "unreadable": dict(self._unreadable.values())}

    def __next__(self) -> dict[str, Any]:
        try:
            batch, skipped = next(self._batches)
        except UserError as error:
            # Errors of workers are wrapped in a traceback.
            own_message = str(error).rpartition(f"{UserError.__module__}.UserError: ")[2].strip()
            # The frames would keep the workers alive.
            error.__traceback__ = None
            raise UserError(own_message) from None
        for entry in skipped:
            if entry.name not in self._unreadable:
                self._unreadable[entry.name] = entry
                _logger.warning("skipped a sample: %s", entry.reason)
        require_few(list(self._unreadable.values()), self._max_unreadable)
        self._state["position"] += len(batch["image"]) * self._num_replicas
        return batch


def make_loader(
    dataset: PortraitDataset,
    *,
    batch_size: int,
    seed: int = 0,
    state: dict[str, Any] | None = None,
    num_workers: int = 0,
    rank: int = 0,
    num_replicas: int = 1,
    streaming: bool = False,
    max_unreadable: int = MAX_UNREADABLE,
    unreadable: Sequence[Unreadable] = (),
) -> BatchStream:
    """Return an endless stream of shuffled batches.

    Args:
        batch_size: Batch size of this process.
        seed: Seed of the order, unless `state` is set.
        state: `BatchStream.state_dict()` of an earlier stream, to resume from.
        num_workers: Reader processes; 0 reads in this process.
        rank: Index of this process among the replicas.
        num_replicas: Processes that share the sequence.
        streaming: Read tar shards sequentially (`ShardStream`) instead of by random access. The
            order then also depends on batch size, workers and replicas.
        unreadable: Samples that were skipped and logged earlier; they count towards the maximum.

    Raises:
        UserError: If `state` has another dataset or order, or the dataset cannot be streamed.
    """
    fresh = {"seed": seed, "position": 0, "num_items": len(dataset)}
    if streaming:
        order = {"num_replicas": num_replicas, "batch_size": batch_size}
        fresh |= {**order, "num_workers": max(num_workers, 1)}
    fresh["digest"] = _digest(dataset, streaming)
    state = state or fresh
    _check_state(state, fresh)
    state = {**state, "digest": fresh["digest"]}
    if streaming:
        stream = ShardStream(
            dataset,
            seed=state["seed"],
            position=state["position"],
            rank=rank,
            num_lanes=max(num_workers, 1),
            max_unreadable=max_unreadable,
            **order,
        )
        source = {"dataset": stream}
    elif isinstance(dataset.files, ShardFiles) and dataset.files.is_remote:
        raise UserError(f"dataset {dataset.path} can only be streamed; set train.streaming=true")
    else:
        order_of_indices = infinite_order(
            len(dataset),
            seed=state["seed"],
            position=state["position"],
            rank=rank,
            num_replicas=num_replicas,
        )
        source = {"dataset": _Replacing(dataset, max_unreadable), "sampler": order_of_indices}
    loader = DataLoader(
        **source,
        batch_size=batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=_collate,
    )
    return BatchStream(
        loader,
        state,
        num_replicas=num_replicas,
        max_unreadable=max_unreadable,
        unreadable=unreadable,
    )


class _Replacing(Dataset):
    """Items, with the samples skipped for each."""

    def __init__(self, dataset: PortraitDataset, max_unreadable: int):
        self._dataset, self._max_unreadable = dataset, max_unreadable

    def __getitem__(self, index: int) -> tuple[Item, list[Unreadable]]:
        return self._dataset.read_or_replace(index, self._max_unreadable)


def _collate(
    samples: list[tuple[Item, list[Unreadable]]],
) -> tuple[dict[str, Any], list[Unreadable]]:
    skipped = [entry for _, entries in samples for entry in entries]
    return default_collate([item for item, _ in samples]), skipped


def _digest(dataset: PortraitDataset, streaming: bool) -> str:
    """Return a hash of everything that determines the order of samples."""
    index = dataset.index
    label_set = [index.label_set.name, index.label_set.version]
    parts: list[Any] = [index.names, index.repeats.tolist(), label_set, dataset.with_flips]
    if streaming and isinstance(dataset.files, ShardFiles):
        parts.append([[table.file, table.names] for table in dataset.files.tables])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _check_state(state: dict[str, Any], fresh: dict[str, Any]) -> None:
    was, now = ({**one, "streaming": "batch_size" in one} for one in (state, fresh))
    # States of older runs have no digest.
    was.setdefault("digest", fresh["digest"])
    for name, words in _ORDER_WORDS.items():
        if was.get(name) != now.get(name):
            raise UserError(
                f"cannot resume: the data order depends on {words}, which changed from "
                f"{was.get(name)} to {now.get(name)}; restore the old value"
            )
