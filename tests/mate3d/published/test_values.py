"""Harmless values beside the tensors are data; other values are refused."""

import collections
import pathlib
import pickle

import numpy as np
import pytest
import torch

from mate3d.published.networks import read_networks
from mate3d.published.snapshot_reader import read_snapshot
from tests.mate3d.refusals import START, name_global, refuse, refuse_bytes
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
        (bytearray(b"abc"), bytearray(b"abc")),
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
    assert type(found) in (str, tuple, dict, frozenset, set, bytearray, float, int, bool)
    assert found == expected


@pytest.mark.parametrize("value", [torch.float16, np.float32, int, torch.Tensor])
def test_types_are_names_that_cannot_be_called(tmp_path, value):
    found = read_value(tmp_path / "x.pkl", value)
    name = str(found).rpartition(".")[2]
    assert name == (value.__name__ if isinstance(value, type) else "float16")
    refuse_bytes(tmp_path, START + name_global("builtins", name) + b")R.", "is refused")


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
    np.testing.assert_array_equal(getattr(found, "values", found), array)


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
