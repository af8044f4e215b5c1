"""Snapshots are read as data: every tensor, and not one byte of what they would execute."""

import builtins
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mate3d.errors import UserError
from mate3d.published.conversion import convert_generator
from mate3d.published.networks import read_networks
from mate3d.published.snapshot_reader import InertObject, read_snapshot
from tests.eg3d import make_generator
from tests.golden import SNAPSHOT
from tests.mate3d.refusals import refuse
from tests.official_format import (
    CLASSES,
    Carrier,
    make_network,
    published_state,
    write_snapshot,
)

_END = b"."
_START = b"\x80\x04"


def refuse_bytes(tmp_path: Path, content: bytes, *words: str) -> str:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    return refuse(path, *words)


def short(text: str) -> bytes:
    encoded = text.encode()
    return b"\x8c" + bytes([len(encoded)]) + encoded


def name_global(module: str, name: str) -> bytes:
    """Push a global as protocol 4 does."""
    return short(module) + short(name) + b"\x93"


class _Call:
    """Pickles as the call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch executed",), "system"),
        (builtins.eval, ("open('executed', 'w')",), "eval"),
        (builtins.exec, ("open('executed', 'w')",), "exec"),
        (builtins.getattr, ("", "join"), "getattr"),
        (builtins.__import__, ("antigravity",), "__import__"),
        (torch.load, ("executed",), "load"),
        (np.load, ("executed",), "load"),
        (pickle.loads, (b"cos\nsystem\n.",), "loads"),
    ],
)
def test_calls_are_refused_by_name(tmp_path, monkeypatch, protocol, function, arguments, name):
    monkeypatch.chdir(tmp_path)
    hidden = Carrier("TriPlaneGenerator", {"_parameters": {"x": _Call(function, *arguments)}})
    path = write_snapshot(tmp_path / "x.pkl", protocol, G_ema=hidden)
    refuse(path, "it refers to '", name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("training.triplane", "os.system"),
        ("torch.nn.modules.container", "torch.os.system"),
        ("torch.nn.modules.container", "__builtins__"),
        ("torch.nn.modules.container", "_copy_to_script_wrapper"),
        ("collections", "OrderedDict.__reduce__"),
        ("builtins", "set.__init__"),
        ("torch_utils.persistence", "_module_to_src"),
        ("training.triplane\nos", "system"),
        ("training", "triplane"),
        ("torch", "FloatStorage"),
        ("os", "system\x1b[31m"),
    ],
)
def test_dotted_and_neighbouring_names_are_refused(tmp_path, module, name):
    refuse_bytes(tmp_path, _START + name_global(module, name) + _END, "it refers to")


def test_modules_named_in_a_file_are_not_imported(tmp_path):
    content = _START + b"}" + short("x") + name_global("training.triplane", "X") + b")\x81s" + _END
    refuse_bytes(tmp_path, content, "none of the networks")
    assert "training.triplane" not in sys.modules and "dnnlib" not in sys.modules


@pytest.mark.parametrize(
    ("operations", "word"),
    [
        (b"\x82\x01", "EXT1"),
        (b"\x83\x01\x00", "EXT2"),
        (b"\x84\x01\x00\x00\x00", "EXT4"),
        (b"Psome id\n", "PERSID"),
        (b"(cos\nsystem\no", "'os.system'"),
        (b"(ios\nsystem\n", "INST"),
        (b")}\x92", "NEWOBJ_EX"),
        (b"\x97", "NEXT_BUFFER"),
        (b"I5\n", "INT"),
        (b"\xff", "0xff"),
        (b"\x8c\x02idQ", "outside the file"),
    ],
)
def test_other_operations_are_refused(tmp_path, operations, word):
    refuse_bytes(tmp_path, _START + operations + _END, word)


@pytest.mark.parametrize(
    ("operations", "word"),
    [
        (short("f") + b")R", "it calls 'f'"),
        (name_global("collections", "OrderedDict") + b"}b", "sets the state of collections.Ord"),
        (name_global("training.triplane", "OSGDecoder") + b")R", "it calls training.triplane."),
        (name_global("training.triplane", "OSGDecoder") + b"K\x01\x85\x81", "passes arguments"),
        (name_global("builtins", "set") + b")\x81", "makes an instance of builtins.set"),
        (name_global("dnnlib.util", "EasyDict") + b")R", "it calls dnnlib.util.EasyDict"),
        (b"}}b", "sets the state of dict"),
        (b"]" + b"]" + b"N" + b"s", "stores items in list"),
        (b"}K\x01a", "appends to dict"),
        (b"})" + b"N" + b"s", "uses tuple as a key"),
        (name_global("collections", "OrderedDict") + b"]\x85R", "passes 1 arguments"),
        (name_global("torch._utils", "_rebuild_parameter") + b")R", "passes 0 arguments"),
    ],
)
def test_calls_and_states_of_wrong_things_are_refused(tmp_path, operations, word):
    refuse_bytes(tmp_path, _START + b"}" + operations + b"0" + _END, word)


@pytest.mark.parametrize("state", [b"N}\x86", b"]", b"N", b"}K\x01Ns", short("x")])
def test_objects_take_only_dicts_of_names_as_state(tmp_path, state):
    decoder = name_global("training.triplane", "OSGDecoder") + b")\x81"
    refuse_bytes(tmp_path, _START + decoder + state + b"b" + _END, "state is not a dict")


def test_attributes_called_like_python_internals_stay_data(tmp_path):
    inner = {"__class__": "x", "__dict__": {"y": 1}, "__setstate__": 3, "attributes": 4, "name": 5}
    path = write_snapshot(tmp_path / "x.pkl", G=Carrier("T", inner))
    network = read_snapshot(path)["G"]
    assert type(network) is InertObject and network.name == "T"
    assert network.attributes == inner


def test_an_embedded_source_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.official_format.SOURCE", "open('executed', 'w')")
    generator = make_generator()
    network = make_network(generator, published_state(generator))
    nested = Carrier("Nested", {"again": Carrier("Inner", {"_modules": {}})})
    network.attributes["note"] = nested
    path = write_snapshot(tmp_path / "x.pkl", G_ema=network)
    assert b"executed" in path.read_bytes()
    for name in ("exec", "eval", "compile", "__import__"):
        monkeypatch.setattr(builtins, name, None)
    networks = read_networks(path)
    monkeypatch.undo()
    assert set(networks) == {"G_ema"} and not (tmp_path / "executed").exists()


def test_objects_nested_without_end_are_refused(tmp_path):
    network = Carrier("N", {"_parameters": {}, "_buffers": {}, "_modules": {}})
    for _ in range(100):
        parts = {"_parameters": {}, "_buffers": {}, "_modules": {"a": network}}
        network = Carrier("N", parts)
    refuse(write_snapshot(tmp_path / "x.pkl", G_ema=network), "nested deeper than 32")


def test_parts_that_double_at_each_level_are_refused(tmp_path):
    network = Carrier("N", {"_parameters": {}, "_buffers": {}, "_modules": {}})
    for _ in range(30):
        parts = {"_parameters": {}, "_buffers": {}, "_modules": {"a": network, "b": network}}
        network = Carrier("N", parts)
    refuse(write_snapshot(tmp_path / "x.pkl", G_ema=network), "repeat without end")


def test_a_part_that_contains_itself_is_refused(tmp_path):
    decoder = CLASSES["OSGDecoder"]()
    decoder.__dict__.update(_parameters={}, _buffers={}, _modules={"self": decoder})
    refuse(write_snapshot(tmp_path / "x.pkl", G_ema=decoder), "nested deeper than 32")


def test_deeply_nested_lists_and_tuples_are_only_data(tmp_path):
    depth = 100_000
    content = _START + b"}" + short("x") + b")" + b"\x85" * depth + b"s" + _END
    refuse_bytes(tmp_path, content, "none of the networks")
    content = _START + b"}" + b")" + b"\x85" * depth + b"Ns" + _END
    refuse_bytes(tmp_path, content, "uses tuple as a key")


def test_too_many_operations_are_refused(tmp_path):
    refuse_bytes(tmp_path, _START + b"]0" * 1_100_000 + b"}" + _END, "more operations")


@pytest.mark.parametrize(
    "operations",
    [
        b"\x8e" + struct.pack("<Q", 2**62),
        b"\x8d" + struct.pack("<Q", 2**63 - 1),
        b"B" + struct.pack("<I", 2**32 - 1),
        b"X" + struct.pack("<I", 2**31),
    ],
)
def test_lengths_beyond_the_file_take_no_memory(tmp_path, operations):
    refuse_bytes(tmp_path, _START + operations + b"abc" + _END, "cut short")


def test_memo_places_far_apart_take_no_memory(tmp_path):
    content = _START + b"}r" + struct.pack("<I", 2**32 - 1) + _END
    refuse_bytes(tmp_path, content, "none of the networks")


def test_every_truncation_is_refused(tmp_path):
    content = SNAPSHOT.read_bytes()
    draws = np.random.default_rng(0)
    for size in [0, 1, 2, 3, 100, *draws.integers(4, len(content) - 1, 8).tolist()]:
        refuse_bytes(tmp_path, content[:size])


def test_damaged_files_give_data_or_one_line(tmp_path):
    generator = make_generator()
    network = make_network(generator, published_state(generator))
    content = write_snapshot(tmp_path / "x.pkl", G_ema=network).read_bytes()
    draws = np.random.default_rng(1)
    num_refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for position in draws.integers(0, len(damaged), 3):
            damaged[position] = draws.integers(256)
        (tmp_path / "x.pkl").write_bytes(damaged)
        try:
            convert_generator(read_networks(tmp_path / "x.pkl")["G_ema"])
        except UserError as error:
            assert "\n" not in str(error)
            num_refused += 1
    assert num_refused > 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04" + bytes(30), "zip archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "PNG"),
        (struct.pack("<Q", 60) + b'{"a":{}}', "safetensors"),
        (b"plain text", "it is no pickle"),
        (b"\x80\x09}.", "protocol 9"),
        (pickle.dumps([1, 2]), "list instead of a dict"),
        (pickle.dumps({"D_x": 1, "b": None}), "it holds D_x, b"),
        (pickle.dumps({"G_ema": None}), "none of the networks G, G_ema, D, D_semantic"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, words):
    refuse_bytes(tmp_path, content, words)


def test_missing_files_and_folders_are_told_apart(tmp_path):
    refuse(tmp_path / "none" / "x.pkl", "not found")
    refuse(tmp_path, "a folder, not a file")


def test_torch_files_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"G_ema": torch.zeros(2)}, path)
    refuse(path, "zip archive")
    torch.save({"G_ema": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    refuse(path, "int instead of a dict")


def test_networks_without_modules_attributes_are_refused(tmp_path):
    refuse(write_snapshot(tmp_path / "x.pkl", G_ema=Carrier("T", {})), "G_ema is not a network")
    odd = Carrier("T", {"_parameters": {"w": 3}, "_buffers": {}, "_modules": {}})
    refuse(write_snapshot(tmp_path / "x.pkl", G_ema=odd), "w is a int")
