"""Tensors of snapshots: every type and view comes back; sizes are believed only when proven."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mate3d.published.networks import read_networks
from tests.eg3d import make_generator
from tests.mate3d.refusals import refuse
from tests.official_format import (
    build_tree,
    make_network,
    official_modules,
    published_state,
    write_snapshot,
)


def read_tensor(path: Path, tensor) -> torch.Tensor:
    write_snapshot(path, G=build_tree({}, "T", {"t": tensor}))
    return read_networks(path)["G"].attributes["t"]


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"],
)
def test_tensors_of_all_types_come_back(tmp_path, dtype):
    tensor = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))
    found = read_tensor(tmp_path / "x.pkl", tensor)
    assert found.dtype == tensor.dtype
    torch.testing.assert_close(found, tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[1:, ::2],
        lambda x: x.T,
        lambda x: x[2, 3],
        lambda x: x[:0],
        lambda x: x.bool(),
        lambda x: torch.as_strided(x, (3, 2), (1, 2), 5),
        lambda x: x[:1].expand(5, -1),
    ],
)
def test_views_keep_offset_strides_and_values(tmp_path, view):
    tensor = view(torch.arange(20.0).reshape(4, 5))
    found = read_tensor(tmp_path / "x.pkl", tensor)
    assert found.stride() == tensor.stride() and torch.equal(found, tensor)


def test_torch_reads_what_the_writer_wrote(tmp_path):
    generator = make_generator()
    state = published_state(generator)
    path = write_snapshot(tmp_path / "x.pkl", G=make_network(generator, state))
    found = read_networks(path)["G"].state
    assert list(found) == list(build_order(state))
    assert all(torch.equal(found[name], state[name]) for name in state)


def build_order(state):
    """Return names as torch lists them: a module's tensors, then its children's."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        module = root
        *path, last = name.split(".")
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        if last in ("resample_filter", "noise_const", "w_avg"):
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    return root.state_dict()


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


def make_stream(
    count: int = 4, announced: int | None = None, stored: int | None = None, **changes: bytes
) -> bytes:
    """Return a legacy stream of float32 zeros with some parts replaced."""
    announced = count if announced is None else announced
    reference = b"\x80\x02(" + b"X\x07\x00\x00\x00storage" + b"ctorch\nFloatStorage\n"
    number = b"\x8a\x09" + announced.to_bytes(9, "little", signed=True)
    reference += b"X\x01\x00\x00\x000" + b"X\x06\x00\x00\x00cuda:0" + number + b"NtQ."
    parts = {
        "magic": pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        "protocol": pickle.dumps(1001, 2),
        "system": pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2),
        "reference": reference,
        "keys": pickle.dumps(["0"], 2),
        "count": struct.pack("<q", announced if stored is None else stored),
        "data": bytes(4 * count),
    }
    return b"".join((parts | changes).values())


def refuse_tensor(tmp_path: Path, tensor, *words: str) -> None:
    path = tmp_path / "x.pkl"
    write_snapshot(path, G=build_tree({}, "T", {"t": tensor}))
    refuse(path, *words)


def test_a_handwritten_stream_is_read_wherever_it_was_stored(tmp_path):
    tensor = _Tensor(_Stream(make_stream()), 0, (2, 2), (2, 1))
    assert torch.equal(read_tensor(tmp_path / "x.pkl", tensor), torch.zeros(2, 2))


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
    refuse_tensor(tmp_path, _Tensor(_Stream(make_stream()), offset, size, stride), "is refused")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 4, "announced": 2**40}, "cut short"),
        ({"count": 4, "announced": 2**62}, "cut short"),
        ({"count": 4, "announced": -1}, "has -1 elements"),
        ({"count": 4, "announced": 5}, "cut short"),
        ({"count": 4, "stored": 3}, "announces 4 elements and stores 3"),
        ({"data": bytes(8)}, "cut short"),
        ({"magic": pickle.dumps(7)}, "not a stream of torch.save"),
        ({"protocol": pickle.dumps(7)}, "not a stream of torch.save"),
        ({"magic": b"PK\x03\x04"}, "zip archive"),
        ({"system": pickle.dumps({"little_endian": False})}, "little-endian"),
        ({"keys": pickle.dumps(["1"])}, "no storage"),
        ({"reference": pickle.dumps(5)}, "no storage"),
        ({"reference": b"\x80\x02cos\nsystem\n)R."}, "'os.system' is not a storage"),
        ({"reference": b"\x80\x02ctorch\nload\n)R."}, "'torch.load' is not a storage"),
        ({"reference": b"\x80\x02ctorch\nFloatStorage\n)R."}, "calls torch.FloatStorage"),
        ({"reference": b"\x80\x02ctorch\nFloatStorage\n)\x81."}, "an instance of torch.Float"),
        ({"reference": b"\x80\x02}}b."}, "sets the state of dict"),
        ({"reference": b"\x80\x02NQ."}, "refers to something"),
    ],
)
def test_storage_streams_are_read_as_strictly(tmp_path, changes, words):
    stream = _Stream(make_stream(**changes))
    refuse_tensor(tmp_path, _Tensor(stream, 0, (2,), (1,)), words)


def test_a_storage_read_over_and_over_is_refused(tmp_path):
    content = make_stream(500_000)
    tensors = [_Tensor(_Stream(content), 0, (2,), (1,)) for _ in range(4)]
    refuse_tensor(tmp_path, tensors, "far more data than its size")


def test_one_tensor_under_many_names_is_refused(tmp_path):
    state = {f"w{index}": torch.zeros(1000) for index in range(4000)}
    shared = torch.zeros(1000)
    tree = build_tree(dict.fromkeys(state, shared), "T", {})
    parameter = next(iter(tree.attributes["_parameters"].values()))
    tree.attributes["_parameters"] = dict.fromkeys(state, parameter)
    refuse(write_snapshot(tmp_path / "x.pkl", G=tree), "unfolds to 16000000 bytes")


def test_small_things_come_back_as_plain_values(tmp_path):
    values = {"a": np.float64(0.25), "b": np.float32(0.5), "c": np.int64(-3), "d": np.bool_(True)}
    values |= {"e": {1, 2}, "f": (1, [2.5, None]), "g": -70000, "h": 2**40, "i": "é"}
    path = write_snapshot(tmp_path / "x.pkl", G=build_tree({}, "T", {"values": values}))
    found = read_networks(path)["G"].attributes["values"]
    assert found == values
    assert {type(found[key]) for key in "abcd"} == {float, int, bool}


def test_objects_of_numpy_are_refused(tmp_path):
    structured = np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])
    for value in (np.array([object()], dtype=object), np.datetime64("2020-01-01"), structured):
        path = tmp_path / "x.pkl"
        with official_modules(), path.open("wb") as file:
            try:
                pickle.dump({"x": value}, file, 4)
            except (AttributeError, pickle.PicklingError):
                continue
        refuse(path)
