"""Latents and encodings of captions are computed once, and again if what they depend on changes."""

from pathlib import Path

import pytest
import torch

from mate3d.diffusion.networks import PriorNetworks
from mate3d.errors import UserError
from tests.training.data.shard_data import edit_json
from tests.training.prior.test_trainer import TINY
from training.prior import encodings
from training.prior.data import CaptionedDatasets, load_images, to_float
from training.prior.encodings import Encodings, encode_images, encode_texts
from training.prior.models import encode_captions, make_tiny_networks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(encodings, "_SHARD_ITEMS", 4)


@pytest.fixture
def networks() -> PriorNetworks:
    torch.manual_seed(0)
    return make_tiny_networks(TINY, ["cat number 1"], 16)


@pytest.fixture
def encoded(dataset_folder, tmp_path, networks, monkeypatch):
    """Return a function that encodes the dataset, and counts the images and captions encoded."""
    counts = {"images": 0, "captions": 0}
    encode, encode_all = networks.vae.encode, encode_captions

    def count_images(images):
        counts["images"] += len(images)
        return encode(images)

    def count_captions(parts, captions):
        counts["captions"] += len(captions)
        return encode_all(parts, captions)

    monkeypatch.setattr(networks.vae, "encode", count_images)
    monkeypatch.setattr(encodings, "encode_captions", count_captions)

    def run() -> tuple[Encodings, dict[str, int]]:
        counts.update(images=0, captions=0)
        dataset, folder = CaptionedDatasets([str(dataset_folder)], 16), tmp_path / "cache"
        images = encode_images(folder, dataset, networks.vae, CPU)
        encode_texts(folder, {"", *dataset.captions}, networks, CPU)
        return images, dict(counts)

    return run


def test_encodings_are_those_of_the_networks(dataset_folder, encoded, networks, tmp_path):
    images, _ = encoded()
    data = load_images(CaptionedDatasets([str(dataset_folder)], 16))
    rows = [5, 0, 3]
    with torch.no_grad():
        posterior = networks.vae.encode(to_float(data.images[rows])).latent_dist
        expected = encode_captions(networks, ["", "cat number 4"])
    torch.testing.assert_close(images.take("mean", rows), posterior.mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(images.take("std", rows), posterior.std, rtol=1e-3, atol=1e-3)
    assert images.take("label_map", rows).equal(data.label_maps[rows])
    assert images.whole("is_own").all()
    captions = ["", *data.captions, *data.captions]
    texts = encode_texts(tmp_path / "cache", captions, networks, CPU)
    torch.testing.assert_close(texts(["", "cat number 4"]), expected, rtol=1e-3, atol=1e-3)


def test_only_what_has_changed_is_encoded_again(dataset_folder, encoded, networks, tmp_path):
    assert encoded()[1] == {"images": 6, "captions": 7}
    assert encoded()[1] == {"images": 0, "captions": 0}

    def rename(index: dict) -> None:
        index["captions"] = dict.fromkeys(index["captions"], "a cat")

    edit_json(dataset_folder / "dataset.json", rename)
    assert encoded()[1] == {"images": 0, "captions": 2}
    networks.vae.encoder.conv_in.bias.data += 0.1
    assert encoded()[1] == {"images": 6, "captions": 0}
    first, *_, last = sorted((dataset_folder / "images").rglob("*.png"))
    first.write_bytes(last.read_bytes())
    assert encoded()[1] == {"images": 6, "captions": 0}
    networks.text_encoder.half()
    assert encoded()[1] == {"images": 0, "captions": 2}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"half of")])
def test_stopped_encoding_goes_on_with_the_first_file_missing(encoded, tmp_path, damage):
    before = encoded()[0].whole("mean")
    first, second = sorted(tmp_path.glob("cache/latents-*/*.safetensors"))
    leftover = first.parent / ".partial.abc.0000004.safetensors"
    leftover.mkdir()
    when = first.stat().st_mtime_ns
    damage(second)
    images, counts = encoded()
    assert counts["images"] == 2 and images.whole("mean").equal(before)
    assert first.stat().st_mtime_ns == when and not leftover.exists()


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_encodings_that_are_not_finite_are_not_written(encoded, networks, tmp_path, part):
    for weight in getattr(networks, part).parameters():
        weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="the prior gives .* not finite"):
        encoded()
    folder = {"vae": "latents", "text_encoder": "captions"}[part]
    assert not list(tmp_path.glob(f"cache/{folder}-*/*.safetensors"))


def test_unreadable_image_is_left_out(dataset_folder, encoded):
    image = sorted((dataset_folder / "images").rglob("*.png"))[1]
    image.write_bytes(image.read_bytes()[:40])
    images, _ = encoded()
    assert images.whole("is_own").tolist() == [True, False, True, True, True, True]
