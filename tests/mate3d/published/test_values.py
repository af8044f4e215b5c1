"""Harmless values beside the tensors are data; what a small file can cost is bounded."""

import collections
import pathlib
import pickle
import struct

import numpy as np
import pytest
import torch

from mate3d.published.networks import read_networks
from mate3d.published.snapshot_reader import read_snapshot
from tests.mate3d.refusals import START, name_global, refuse, refuse_bytes, text
from tests.official_format import build_tree, write_snapshot


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
        (np.float64(0.25), 0.25),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        ({1, 2}, {1, 2}),
        ((1, [2.5, None, -70000, 2**40, "é"]), (1, [2.5, None, -70000, 2**40, "é"])),
    ],
)
def test_harmless_values_come_back_inert(tmp_path, protocol, value, expected):
    found = read_value(tmp_path / "x.pkl", value, protocol)
    assert type(found) in (str, tuple, dict, frozenset, set, memoryview, float, int, bool)
    assert found == expected


@pytest.mark.parametrize("value", [torch.float16, np.float32, int, torch.Tensor])
def test_types_are_names_that_cannot_be_called(tmp_path, value):
    found = read_value(tmp_path / "x.pkl", value)
    name = str(found).rpartition(".")[2]
    assert name == (value.__name__ if isinstance(value, type) else "float16")
    refuse_bytes(tmp_path, START + name_global("builtins", name) + b")R.", "it ", "builtins")


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
    refuse_bytes(tmp_path, content, "damaged")


def test_tensors_with_attributes_of_their_own_are_read(tmp_path):
    parameter = torch.nn.Parameter(torch.arange(3.0))
    tensor = torch.arange(4.0)
    parameter.note, tensor.note = "x", "y"
    tree = build_tree({}, "T", {"constant": tensor})
    tree.attributes["_parameters"]["weight"] = parameter
    network = read_networks(write_snapshot(tmp_path / "x.pkl", G=tree))["G"]
    assert torch.equal(network.state["weight"], parameter.data)
    assert torch.equal(network.attributes["constant"], tensor)


def number(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little")


_MODULUS = 2**61 - 1
_BIG_DICT = b"}(" + b"".join(text(str(i)) + b"N" for i in range(1000)) + b"u\x940"
_META = b"}(" + text("type") + text("class") + text("class_name") + text("X") + text("state")
_META += b"h\x00u\x85"
_LONG_TEXT = b"B" + struct.pack("<I", 4 * 9999) + b"a\0\0\0" * 9999


def _repeat(module: str, name: str, arguments: bytes, place: int = 0) -> bytes:
    """Call a function over and over with the same arguments."""
    call = b"h" + bytes([place]) + b"h" + bytes([place + 1]) + b"R0"
    return name_global(module, name) + b"\x940" + arguments + b"\x940" + call * 9000


@pytest.mark.parametrize(
    "operations",
    [
        # Whole numbers of one hash: each insertion would visit all before it.
        b"(" + b"".join(number(_MODULUS * (i + 1)) + b"N" for i in range(1000)) + b"u",
        b"\x8f(" + b"".join(number(_MODULUS * (i + 1)) for i in range(1000)) + b"\x900",
        # One large state checked for each of many objects.
        _BIG_DICT + name_global("training.triplane", "A") + b")\x81" + b"h\x00b" * 9000,
        _BIG_DICT + _repeat("torch_utils.persistence", "_reconstruct_persistent_obj", _META, 1),
        # One long text or list looked at or copied over and over.
        text("training.triplane") + b"\x94" + text("A" * 10**5) + b"\x94" + b"h\x00h\x01\x930" * 9,
        _repeat("pathlib", "PosixPath", b"(" + text("a" * 4000) + b"t"),
        _repeat("pathlib", "PosixPath", b"(" + text("") * 1000 + b"t"),
        _repeat("builtins", "frozenset", b"](" + b"K\x01" * 1000 + b"e\x85"),
        _repeat(
            "numpy.core.multiarray",
            "scalar",
            name_global("numpy", "dtype") + text("U9999") + b"\x85R" + _LONG_TEXT + b"\x86",
        ),
    ],
)
def test_work_without_proportion_to_the_file_is_refused(tmp_path, operations):
    refuse_bytes(tmp_path, START + b"}" + operations + b".", "is refused: it ")


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}], dtype=object),
        np.datetime64("2020-01-01"),
        np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
    ],
)
def test_other_values_of_numpy_are_refused(tmp_path, value):
    refuse(write_snapshot(tmp_path / "x.pkl", value=value), "is refused")
