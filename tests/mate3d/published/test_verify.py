"""Comparing a snapshot and our renders with recorded values: what passes, fails and is unusable."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.published.conversion import convert_generator
from mate3d.published.verify import Expected, comparison_picture, load_expected, verify
from tests.golden import EXPECTED, SNAPSHOT


@pytest.fixture(scope="module")
def generator(networks) -> Generator:
    return convert_generator(networks["G_ema"]).generator


def test_one_changed_number_fails_its_sum(networks, generator, expected):
    changed = dict(networks["D"].state)
    changed["b4.fc.weight"] = changed["b4.fc.weight"].clone()
    changed["b4.fc.weight"][0, 0] += 1e-3
    other = networks | {"D": dataclasses.replace(networks["D"], state=changed)}
    result = verify(other, generator, expected)
    assert not result.is_verified and result.errors["sums.D"][0] > 1e-9


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda e: e.state["D"].pop(), "D does not have the recorded tensors"),
        (lambda e: e.state["G"].reverse(), "G does not have the recorded tensors"),
        (lambda e: e.state.update(X=[]), "no network 'X'"),
        (lambda e: e.state.pop("G_ema"), "tensors of G_ema are not recorded"),
        (lambda e: e.state.pop("D"), "'sums.D' is recorded but was not"),
        (lambda e: e.tensors.update(image=e.tensors["image"].flatten()), "image has the shape"),
        (lambda e: e.tensors.update({"in.z": torch.zeros(0, 24)}), "in.z has the shape"),
        (lambda e: e.tensors.update({"in.z": torch.zeros(())}), "in.z has the shape ()"),
        (lambda e: e.tensors.update({"in.c": torch.zeros(3, 25)}), "in.c has the shape"),
        (lambda e: e.tensors.update(other=torch.zeros(1)), "'other' is recorded but was not"),
        (lambda e: e.tensors.pop("ws"), "ws is not recorded"),
        (
            lambda e: e.tensors.update({"sums.G": torch.zeros(254)}),
            "G does not have the recorded tensors",
        ),
    ],
)
def test_what_cannot_be_compared_is_a_mismatch(networks, generator, edit, word):
    expected = load_expected(EXPECTED)
    edit(expected)
    result = verify(networks, generator, expected)
    assert not result.is_verified
    assert word in " ".join(result.mismatches)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["ws", "image_depth", "semantic", "in.c", "D"])
def test_values_that_are_not_numbers_are_not_verified(networks, generator, expected, name, value):
    tensor = expected.tensors[name].clone()
    tensor.view(-1)[0] = value
    broken = Expected(expected.state, expected.tensors | {name: tensor})
    result = verify(networks, generator, broken)
    assert not result.is_verified
    picture = comparison_picture(broken, result, generator.label_set)
    assert torch.isfinite(picture).all()


def test_pictures_of_other_sizes_are_not_rendered(networks, generator, expected, monkeypatch):
    other = Generator(dataclasses.replace(generator.config, neural_rendering_resolution=4096))
    monkeypatch.setattr(other, "synthesize", None)
    result = verify(networks, other, expected)
    assert any("instead of (2, 3, 4096, 4096)" in text for text in result.mismatches)


def test_other_files_are_no_recorded_values(tmp_path):
    for path in (tmp_path / "none", tmp_path / ("x" * 300), tmp_path, SNAPSHOT):
        with pytest.raises(UserError, match="cannot be read"):
            load_expected(path)
    save_file({"in.z": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="lack 'in.c', 'in.c_cond', 'image'"):
        load_expected(tmp_path / "x.safetensors")
    tensors = load_file(EXPECTED)
    with safe_open(EXPECTED, "pt") as file:
        whole = tensors | {"in.z": tensors["in.z"].long()}
        save_file(whole, tmp_path / "x.safetensors", file.metadata())
    with pytest.raises(UserError, match="'in.z' does not hold floating-point numbers"):
        load_expected(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "state",
    [
        None,
        {"G": [[1]]},
        {"G": [["w", ["x"], "f"]]},
        {"G": [["w", [float("inf")], "f"]]},
        "[" * 100_000,
    ],
)
def test_other_metadata_are_no_recorded_values(tmp_path, state):
    text = state if isinstance(state, str) else json.dumps(state)
    save_file(load_file(EXPECTED), tmp_path / "x.safetensors", {"state": text})
    with pytest.raises(UserError, match="metadata entry state does not list"):
        load_expected(tmp_path / "x.safetensors")
