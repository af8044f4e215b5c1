"""Tensors of snapshots: every type and view comes back; sizes are believed only when proven."""

import pickle
import struct
from pathlib import Path

import pytest
import torch

from mate3d.published.networks import read_networks
from tests.mate3d.refusals import refuse, text
from tests.official_format import build_tree, write_snapshot


def write_tensor(folder: Path, tensor) -> Path:
    return write_snapshot(folder / "x.pkl", G=build_tree({}, "T", {"t": tensor}))


def read_tensor(folder: Path, tensor) -> torch.Tensor:
    return read_networks(write_tensor(folder, tensor))["G"].attributes["t"]


_TYPES = ("float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool").split()
_VIEWS = (
    lambda x: x[1:, ::2],
    lambda x: x.T,
    lambda x: x[2, 3],
    lambda x: x[:0],
    lambda x: torch.as_strided(x, (3, 2), (1, 2), 5),
    lambda x: x[:1].expand(5, -1),
)


@pytest.mark.parametrize(
    "change", [*_VIEWS, *(lambda x, t=t: x.to(getattr(torch, t)) for t in _TYPES)]
)
def test_tensors_keep_type_offset_strides_and_values(tmp_path, change):
    tensor = change(torch.arange(20.0).reshape(4, 5))
    found = read_tensor(tmp_path, tensor)
    assert (found.dtype, found.stride()) == (tensor.dtype, tensor.stride())
    assert torch.equal(found, tensor)


class _Tensor:
    """Pickles as a tensor with any offset, shape and strides."""

    def __init__(self, storage, offset, size, stride):
        self.arguments = (storage, offset, size, stride, False, {})

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


class _Stream:
    """Pickles as a storage given by its bytes."""

    def __init__(self, content: bytes):
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


def _reference(announced: int) -> bytes:
    """Return the pickle that names a storage."""
    number = b"\x8a\x09" + announced.to_bytes(9, "little", signed=True)
    key = text("0") + text("cuda:0") + number
    return b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\n" + key + b"NtQ."


def make_stream(
    count: int = 4, announced: int | None = None, stored: int | None = None, **changes: bytes
) -> bytes:
    """Return a legacy stream of float32 zeros with some parts replaced."""
    announced = count if announced is None else announced
    parts = {
        "magic": pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        "protocol": pickle.dumps(1001, 2),
        "system": pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2),
        "reference": _reference(announced),
        "keys": pickle.dumps(["0"], 2),
        "count": struct.pack("<q", announced if stored is None else stored),
        "data": bytes(4 * count),
    }
    return b"".join((parts | changes).values())


def test_a_handwritten_stream_is_read_wherever_it_was_stored(tmp_path):
    tensor = _Tensor(_Stream(make_stream()), 0, (2, 2), (2, 1))
    assert torch.equal(read_tensor(tmp_path, tensor), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (5, (), ()),
        (-1, (2,), (1,)),
        (0, (-1,), (1,)),
        (3, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (1.5,), (1,)),
    ],
)
def test_tensors_that_do_not_fit_their_storage_are_refused(tmp_path, offset, size, stride):
    tensor = _Tensor(_Stream(make_stream()), offset, size, stride)
    refuse(write_tensor(tmp_path, tensor), "is refused")


@pytest.mark.parametrize(
    "changes",
    [
        {"announced": 2**62},
        {"announced": -1},
        {"announced": 5},
        {"stored": 3},
        {"data": bytes(8)},
        {"magic": pickle.dumps(7, 2)},
        {"protocol": pickle.dumps(7, 2)},
        {"magic": b"PK\x03\x04"},
        {"reference": pickle.dumps("0", 2)},
        {"reference": b"\x80\x02cos\nsystem\n)R."},
        {"reference": b"\x80\x02ctorch\nload\n)R."},
    ],
)
def test_storage_streams_are_read_as_strictly(tmp_path, changes):
    tensor = _Tensor(_Stream(make_stream(**changes)), 0, (2,), (1,))
    refuse(write_tensor(tmp_path, tensor), "damaged")
