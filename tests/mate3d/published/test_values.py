"""Harmless values beside the tensors are data; what a small file can cost is bounded."""

import collections
import pathlib
import pickle
import struct

import numpy as np
import pytest
import torch

from mate3d.errors import UserError
from mate3d.published.networks import read_networks
from mate3d.published.snapshot_reader import read_snapshot
from tests.mate3d.refusals import refuse
from tests.official_format import build_tree, write_snapshot

_START = b"\x80\x04"


def read_value(path, value, protocol: int = 4):
    return read_snapshot(write_snapshot(path, protocol, value=value))["value"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.device("cuda", 1), "cuda:1"),
        (torch.device("cpu"), "cpu"),
        (torch.Size([2, 3]), (2, 3)),
        (pathlib.PosixPath("/data/faces"), "/data/faces"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.OrderedDict(b=1), {"b": 1}),
        (frozenset({"a", 1}), frozenset({"a", 1})),
        (bytearray(b"abc"), b"abc"),
        (np.str_("face"), "face"),
        (np.float16(0.5), 0.5),
    ],
)
def test_harmless_values_come_back_inert(tmp_path, protocol, value, expected):
    found = read_value(tmp_path / "x.pkl", value, protocol)
    assert type(found) in (str, tuple, dict, frozenset, memoryview, float)
    assert found == expected


@pytest.mark.parametrize("value", [torch.float16, np.float32, int, torch.Tensor])
def test_types_are_names_that_cannot_be_called(tmp_path, value):
    found = read_value(tmp_path / "x.pkl", value)
    assert found.name == value.__name__ if isinstance(value, type) else "float16"
    name = found.name.encode()
    content = _START + b"\x8c\x08builtins\x8c" + bytes([len(name)]) + name + b"\x93)R."
    (tmp_path / "y.pkl").write_bytes(content)
    refuse(tmp_path / "y.pkl", "it ", "builtins")


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        np.array(2.5, dtype=">f4"),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
    ],
)
def test_arrays_are_read_in_every_protocol(tmp_path, protocol, array):
    found = read_value(tmp_path / "x.pkl", array, protocol)
    np.testing.assert_array_equal(found.values, array)


def test_arrays_that_do_not_fit_their_bytes_are_refused(tmp_path):
    content = pickle.dumps({"x": np.zeros((2, 3))}, 4).replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86")
    (tmp_path / "x.pkl").write_bytes(content)
    refuse(tmp_path / "x.pkl", "a numpy array of shape (2, 9) has other bytes")


def test_tensors_with_attributes_of_their_own_are_read(tmp_path):
    parameter = torch.nn.Parameter(torch.arange(3.0))
    tensor = torch.arange(4.0)
    parameter.note, tensor.note = "x", "y"
    tree = build_tree({}, "T", {"constant": tensor})
    tree.attributes["_parameters"]["weight"] = parameter
    network = read_networks(write_snapshot(tmp_path / "x.pkl", G=tree))["G"]
    assert torch.equal(network.state["weight"], parameter.data)
    assert torch.equal(network.attributes["constant"], tensor)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def number(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little")


_MODULUS = 2**61 - 1
_BIG_DICT = b"}(" + b"".join(text(str(i)) + b"N" for i in range(1000)) + b"u\x940"
_META = b"}(" + text("type") + text("class") + text("class_name") + text("X") + text("state")


@pytest.mark.parametrize(
    "operations",
    [
        # Whole numbers of one hash: each insertion would visit all before it.
        b"(" + b"".join(number(_MODULUS * (i + 1)) + b"N" for i in range(1000)) + b"u",
        b"\x8f(" + b"".join(number(_MODULUS * (i + 1)) for i in range(1000)) + b"\x900",
        # One large state checked for each of many objects.
        _BIG_DICT + name_global("training.triplane", "A") + b")\x81" + b"h\x00b" * 9000,
        _BIG_DICT
        + _META
        + b"h\x00u\x85\x940"
        + name_global("torch_utils.persistence", "_reconstruct_persistent_obj")
        + b"\x940"
        + b"h\x02h\x01R0" * 9000,
        # One long text looked at or copied over and over.
        text("training.triplane")
        + b"\x940"
        + text("A" * 10**5)
        + b"\x940"
        + b"h\x00h\x01\x930" * 9,
        name_global("pathlib", "PosixPath")
        + b"\x940("
        + text("a" * 4000)
        + b"t\x940"
        + b"h\x00h\x01R" * 3000,
        name_global("numpy.core.multiarray", "scalar")
        + b"\x940"
        + name_global("numpy", "dtype")
        + text("U9999")
        + b"\x85R\x940B"
        + struct.pack("<I", 4 * 9999)
        + b"a\0\0\0" * 9999
        + b"\x940h\x01h\x02\x86\x940"
        + b"h\x00h\x03R" * 300,
        name_global("builtins", "frozenset")
        + b"\x940]("
        + b"K\x01" * 1000
        + b"e\x85\x940"
        + b"h\x00h\x01R" * 9000,
    ],
)
def test_work_without_proportion_to_the_file_is_refused(tmp_path, operations):
    (tmp_path / "x.pkl").write_bytes(_START + b"}" + operations + b".")
    refuse(tmp_path / "x.pkl", "is refused: it ")


def test_long_paths_of_nested_names_are_refused(tmp_path):
    network = build_tree({}, "N", {})
    for _ in range(10):
        outer = build_tree({}, "N", {})
        outer.attributes["_modules"]["n" * 99] = network
        network = outer
    refuse(write_snapshot(tmp_path / "x.pkl", G_ema=network), "names of more than 300 letters")


def test_endless_names_of_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        read_networks(tmp_path / ("x" * 300))
