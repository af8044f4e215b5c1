"""Snapshots are read as data: every tensor, and not one byte of what they would execute."""

import builtins
import os
import pickle
import sys

import numpy as np
import pytest
import torch

from mate3d.errors import UserError
from mate3d.published.conversion import convert_generator
from mate3d.published.networks import read_networks
from mate3d.published.snapshot_reader import InertObject, read_snapshot
from tests.eg3d import make_generator
from tests.golden import SNAPSHOT
from tests.mate3d.refusals import START, name_global, refuse, refuse_bytes, text
from tests.official_format import Carrier, make_network, published_state, write_snapshot

_DECODER = name_global("training.triplane", "OSGDecoder")


class _Call:
    """Pickles as the call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (os.system, "touch executed"),
        (builtins.eval, "open('executed', 'w')"),
        (builtins.exec, "open('executed', 'w')"),
        (builtins.getattr, ""),
        (builtins.__import__, "antigravity"),
        (torch.load, "executed"),
        (np.load, "executed"),
        (pickle.loads, b"cos\nsystem\n."),
    ],
)
def test_calls_are_refused_by_name(tmp_path, monkeypatch, protocol, function, argument):
    monkeypatch.chdir(tmp_path)
    hidden = Carrier("TriPlaneGenerator", {"_parameters": {"x": _Call(function, argument)}})
    path = write_snapshot(tmp_path / "x.pkl", protocol, G_ema=hidden)
    refuse(path, "it refers to '", function.__name__)


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
    refuse_bytes(tmp_path, START + name_global(module, name) + b".", "it refers to")


def test_modules_named_in_a_file_are_not_imported(tmp_path):
    content = START + b"}" + text("x") + name_global("training.triplane", "X") + b")\x81s."
    refuse_bytes(tmp_path, content, "none of the networks")
    assert "training.triplane" not in sys.modules and "dnnlib" not in sys.modules


@pytest.mark.parametrize(
    "operations",
    [
        b"\x82\x01",
        b"\x83\x01\x00",
        b"Psome id\n",
        b"(cos\nsystem\no",
        b"(ios\nsystem\n",
        b"\x97",
        text("id") + b"Q",
        # Calls and states of wrong things.
        text("f") + b")R",
        name_global("collections", "OrderedDict") + b"]\x85K\x01R",
        name_global("torch._utils", "_rebuild_parameter") + b")R",
        name_global("builtins", "set") + b")\x81",
        b"}}b" + b"K\x01b",
        _DECODER + b")\x81K\x01b",
    ],
)
def test_other_operations_and_wrong_operands_are_refused(tmp_path, operations):
    refuse_bytes(tmp_path, START + operations + b".", "snapshot ")


def test_states_of_names_change_nothing_beyond_the_file(tmp_path):
    state = b"(" + text("__code__") + text("__setstate__") + b"t"
    for module, name in (("torch._utils", "_rebuild_parameter"), ("training.triplane", "X")):
        content = START + name_global(module, name) + b"N}" + text("__call__") + b"K\x01s\x86b."
        refuse_bytes(tmp_path, content)
        refuse_bytes(tmp_path, START + name_global(module, name) + state + b"b.")
    assert read_networks(SNAPSHOT)["G_ema"].state


def test_attributes_called_like_python_internals_stay_data(tmp_path):
    inner = {"__class__": "x", "__dict__": {"y": 1}, "__setstate__": 3, "attributes": 4, "name": 5}
    network = read_snapshot(write_snapshot(tmp_path / "x.pkl", G=Carrier("T", inner)))["G"]
    assert isinstance(network, InertObject) and type(network).__name__ == "T"
    assert network.attributes == inner


def test_an_embedded_source_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.official_format.SOURCE", "open('executed', 'w')")
    generator = make_generator()
    network = make_network(generator, published_state(generator))
    network.attributes["note"] = Carrier("A", {"again": Carrier("B", {"_modules": {}})})
    path = write_snapshot(tmp_path / "x.pkl", G_ema=network)
    assert b"executed" in path.read_bytes()
    read_networks(SNAPSHOT)
    for name in ("exec", "eval", "compile"):
        monkeypatch.setattr(builtins, name, None)
    # Torch's functions name modules of theirs, all of which were imported by the first reading.
    loaded, do_import = set(sys.modules), builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *a: do_import(name, *a) if name in loaded else 1 / 0
    )
    networks = read_networks(path)
    monkeypatch.undo()
    assert set(networks) == {"G_ema"} and not (tmp_path / "executed").exists()


def test_networks_without_modules_attributes_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    refuse(write_snapshot(path, G_ema=Carrier("T", {})), "lacks the attributes of a torch module")
    odd = Carrier("T", {"_parameters": {"w": 3}, "_buffers": {}, "_modules": {}})
    refuse(write_snapshot(path, G_ema=odd), "w is a int")


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
        (b"", "it is not a pickle"),
        (b"PK\x03\x04" + bytes(30), "it is not a pickle; it starts with b'PK"),
        (b"plain text", "it is not a pickle"),
        (b"\x80\x09}.", "damaged"),
        (pickle.dumps([1, 2]), "list instead of a dict"),
        (pickle.dumps({"D_x": 1, "b": None}), "it contains D_x, b"),
        (pickle.dumps({"G_ema": None}), "none of the networks G, G_ema, D, D_semantic"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, words):
    refuse_bytes(tmp_path, content, words)


def test_missing_files_and_files_of_torch_are_told_apart(tmp_path):
    refuse(tmp_path / "none" / "x.pkl", "not found")
    refuse(tmp_path, "is not a file")
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        read_networks(tmp_path / ("x" * 300))
    path = tmp_path / "x.pt"
    torch.save({"G_ema": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    refuse(path, "int")
