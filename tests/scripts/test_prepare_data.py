"""prepare_data writes procedural cats that the data set reads, packs and changes them."""

from pathlib import Path

import pytest
import torch

from mate3d.labels import CATMASK_HQ
from scripts import prepare_data
from training.data.dataset import PortraitDataset
from training.data.format import open_dataset


def _prepare(folder: Path, output: str, *words: str) -> Path:
    path = folder / output
    fixed = ["debug=tiny", f"output={path}", f"paths.outputs={folder / 'runs'}"]
    prepare_data.main([*fixed, *words])
    return path


@pytest.fixture(scope="module")
def cats(tmp_path_factory) -> Path:
    """Eight cats of 32 px."""
    return _prepare(tmp_path_factory.mktemp("cats"), "cats")


def _items(path: Path) -> list[dict]:
    dataset = PortraitDataset(path)
    return [dataset[i] for i in range(len(dataset))]


def test_cats_are_a_function_of_seed_and_number(cats, tmp_path):
    folder, archive = (
        _items(cats),
        _items(_prepare(tmp_path, "c.zip", "batch_size=3", "num_images=5")),
    )
    assert len(folder) == 8 and len(archive) == 5
    for first, second in zip(folder, archive, strict=False):
        assert first.pop("caption") == second.pop("caption") != ""
        torch.testing.assert_close(first, second)
    other = _items(_prepare(tmp_path, "other", "seed=1", "num_images=2"))
    images = {item["image"].numpy().tobytes() for item in folder + other}
    assert len(images) == 10
    assert len({tuple(item["camera"].tolist()) for item in folder}) == 8


def test_existing_output_is_kept_unless_overwritten(tmp_path, capsys):
    path = _prepare(tmp_path, "cats.zip", "num_images=2")
    before = path.read_bytes()
    with pytest.raises(SystemExit) as info:
        _prepare(tmp_path, "cats.zip", "num_images=3")
    assert info.value.code == 2 and "exists already" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert len(_items(_prepare(tmp_path, "cats.zip", "num_images=3", "overwrite=true"))) == 3


def test_attributes_give_the_ground_truth_of_an_edit(cats, tmp_path):
    path = _prepare(tmp_path, "big", "scale_attributes={ear_size:1.5}")
    before, after = open_dataset(cats)[1], open_dataset(path)[1]
    for one, other in zip(before.attributes, after.attributes, strict=True):
        assert other.pop("ear_size") == pytest.approx(1.5 * one.pop("ear_size"), rel=1e-5)
        assert one == other
    ears = CATMASK_HQ.class_id("ears")
    sizes = [sum((i["label_map"] == ears).sum() for i in _items(p)) for p in (cats, path)]
    assert sizes[1] > 1.2 * sizes[0]


def test_data_set_is_packed_as_shards_of_another_size(cats, tmp_path):
    words = ["dataset=packed", f"data={cats}", "resolution=24", "shard_size=5"]
    prepare_data.main([*words, f"output={tmp_path / 'shards'}", f"paths.outputs={tmp_path}"])
    assert len(list((tmp_path / "shards" / "shards").glob("*.tar"))) == 2
    small, shards = PortraitDataset(cats, resolution=24), PortraitDataset(tmp_path / "shards")
    for index in range(8):
        one, other = small[index], shards[index]
        assert one.pop("caption") == other.pop("caption") != ""
        torch.testing.assert_close(one, other)
    assert small.index.attributes == shards.index.attributes
