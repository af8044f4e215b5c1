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
        (5, (0,), (1,)),
        (-1, (2,), (1,)),
        (0, (-1,), (1,)),
        (3, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (1.5,), (1,)),
        (0, [2], [1]),
        (0, (2**62,), (0,)),
        (0, (2**61, 2**61), (0, 0)),
        (0, (0, 2**61), (0, 0)),
        (0, (10**9,), (0,)),
        (0, (1000, 1000), (0, 0)),
        (0, (1,) * 40, (0,) * 40),
    ],
)
def test_tensors_that_do_not_fit_their_storage_are_refused(tmp_path, offset, size, stride):
    tensor = _Tensor(_Stream(make_stream()), offset, size, stride)
    refuse(write_tensor(tmp_path, tensor), "is refused")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"announced": 2**40}, "truncated"),
        ({"announced": 2**62}, "truncated"),
        ({"announced": -1}, "truncated"),
        ({"announced": 5}, "damaged"),
        ({"stored": 3}, "damaged"),
        ({"data": bytes(8)}, "damaged"),
        ({"magic": pickle.dumps(7, 2)}, "damaged"),
        ({"protocol": pickle.dumps(7, 2)}, "damaged"),
        ({"magic": b"PK\x03\x04"}, "PERSID"),
        ({"keys": pickle.dumps([], 2)}, "other than a storage"),
        ({"keys": pickle.dumps(["1"], 2)}, "other than a storage"),
        ({"reference": pickle.dumps("0", 2)}, "other than a storage"),
        ({"reference": b"\x80\x02cos\nsystem\n)R."}, "'os.system' is not a numeric storage"),
        ({"reference": b"\x80\x02ctorch\nload\n)R."}, "'torch.load' is not a numeric storage"),
        ({"reference": b"\x80\x02ctorch\nFloatStorage\n)R."}, "REDUCE"),
        ({"reference": b"\x80\x02ctorch\nFloatStorage\n)\x81."}, "NEWOBJ"),
        ({"reference": b"\x80\x02}}b."}, "BUILD"),
        ({"reference": b"\x80\x02NQ."}, "refers to something"),
        ({"reference": _reference(4)[:-1] + b"0" + _reference(4)[2:]}, "truncated"),
    ],
)
def test_storage_streams_are_read_as_strictly(tmp_path, changes, words):
    tensor = _Tensor(_Stream(make_stream(**changes)), 0, (2,), (1,))
    refuse(write_tensor(tmp_path, tensor), words)


@pytest.mark.parametrize("content", [make_stream(500_000), make_stream() + bytes(2_000_000)])
def test_a_storage_read_over_and_over_is_refused(tmp_path, content):
    tensors = [_Tensor(_Stream(content), 0, (2,), (1,)) for _ in range(4)]
    refuse(write_tensor(tmp_path, tensors), "far more data than its size")


def test_one_tensor_under_many_names_is_refused(tmp_path):
    tree = build_tree({}, "T", {})
    names, parameter = map(str, range(4000)), torch.nn.Parameter(torch.zeros(1000))
    tree.attributes["_parameters"] = dict.fromkeys(names, parameter)
    refuse(write_snapshot(tmp_path / "x.pkl", G=tree), "expands to 16000000 bytes")
