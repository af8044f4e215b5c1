"""prepare_data draws portraits, makes datasets of photos, packs, checks and repairs them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, get_label_set, save_label_map
from scripts import prepare_data, train
from tests.mate3d.photo.networks import save_captioner, save_segmenter
from tests.training.data.shard_data import edit_json
from training.data.dataset import PortraitDataset
from training.data.format import open_dataset
from training.data.preparation.rebalancing import yaw_of_cameras

NUM_CATS = 4
SIDE = 48


def _run(folder: Path, *words: str) -> None:
    prepare_data.main([*words, f"paths.run_folder={folder / 'run'}"])


def _draw(path: Path, *words: str) -> Path:
    _run(path.parent, "debug=tiny", f"output={path}", *words)
    return path


def _items(path: Path) -> list[dict]:
    dataset = PortraitDataset(path)
    return [dataset[i] for i in range(len(dataset))]


# Procedural cats.


def test_cats_are_a_function_of_seed_and_number(cats, tmp_path):
    archive = _items(_draw(tmp_path / "c.zip", "batch_size=3", "num_images=5"))
    folder = _items(cats)
    assert len(folder) == 8 and len(archive) == 5
    for first, second in zip(folder, archive, strict=False):
        assert first.pop("caption") == second.pop("caption") != ""
        torch.testing.assert_close(first, second)
    other = _items(_draw(tmp_path / "other", "seed=1", "num_images=2"))
    images = {item["image"].numpy().tobytes() for item in folder + other}
    assert len(images) == 10
    assert len({tuple(item["camera"].tolist()) for item in folder}) == 8


def test_existing_output_is_kept_unless_overwritten(tmp_path, fail):
    path = _draw(tmp_path / "cats.zip", "num_images=1")
    before = path.read_bytes()
    assert "overwrite=true" in fail(prepare_data.main, "debug=tiny", f"output={path}")
    assert path.read_bytes() == before
    assert len(_items(_draw(path, "num_images=2", "overwrite=true"))) == 2


def test_attributes_give_the_ground_truth_of_an_edit(cats, tmp_path):
    path = _draw(tmp_path / "big", "scale_attributes={ear_size:1.5}")
    before, after = open_dataset(cats)[1], open_dataset(path)[1]
    for one, other in zip(before.attributes, after.attributes, strict=True):
        assert other.pop("ear_size") == pytest.approx(1.5 * one.pop("ear_size"), rel=1e-5)
        assert one == other
    ears = CATMASK_HQ.class_id("ears")
    sizes = [sum((i["label_map"] == ears).sum() for i in _items(p)) for p in (cats, path)]
    assert sizes[1] > 1.2 * sizes[0]


def test_data_set_is_packed_as_shards_of_another_size(cats, tmp_path):
    words = ["dataset=packed", f"data={cats}", "resolution=24", "shard_size=5"]
    _run(tmp_path, *words, f"output={tmp_path / 'shards'}")
    assert len(list((tmp_path / "shards" / "shards").glob("*.tar"))) == 2
    small, shards = PortraitDataset(cats, resolution=24), PortraitDataset(tmp_path / "shards")
    for index in range(8):
        one, other = small[index], shards[index]
        assert one.pop("caption") == other.pop("caption") != ""
        torch.testing.assert_close(one, other)
    assert small.index.attributes == shards.index.attributes


def test_packing_adds_captions_from_a_file_a_network_or_labels(dataset_folder, tmp_path, fail):
    def pack(data: Path, *words: str) -> list[str]:
        output = tmp_path / f"packed{len(list(tmp_path.iterdir()))}"
        _run(tmp_path, "dataset=packed", f"data={data}", f"output={output}", *words)
        return [item["caption"] for item in _items(output)]

    edit_json(dataset_folder / "dataset.json", lambda index: index["captions"].popitem())
    kept = [f"cat number {index}" for index in range(5)]
    assert pack(dataset_folder) == [*kept, "a portrait of a cat"]
    assert pack(dataset_folder, "caption_source=none") == [*kept, ""]
    file = tmp_path / "captions.csv"
    file.write_text("00000/img00000001,a grey cat\n")
    words = ("caption_source=none", f"captions={file}")
    assert pack(dataset_folder, *words) == [kept[0], "a grey cat", *kept[2:], ""]
    save_captioner(tmp_path / "captioner")
    words = ("caption_source=model", f"captioning.model={tmp_path / 'captioner'}")
    assert all(text.startswith("cat cat") for text in pack(dataset_folder, *words))
    file.write_text("other,a grey cat\n")
    words = (f"data={dataset_folder}", f"output={tmp_path / 'no'}", f"captions={file}")
    assert "no name is an image" in fail(prepare_data.main, "dataset=packed", *words)


# Photos.


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    """A dataset of procedural cats: photos, masks, and the cameras that they really have."""
    folder = tmp_path_factory.mktemp("truth")
    return _draw(folder / "cats", f"num_images={NUM_CATS}", f"resolution={SIDE}")


@pytest.fixture
def photos(truth, tmp_path) -> Path:
    """Bare folders: wide JPEG photos below photos/, palette PNG masks below masks/."""
    for path in sorted((truth / "images").rglob("*.png")):
        with Image.open(path) as image:
            wide = np.pad(np.array(image), ((0, 0), (6, 6), (0, 0)), mode="edge")
        with Image.open(truth / "masks" / path.relative_to(truth / "images")) as mask:
            wide_mask = np.pad(np.array(mask), ((0, 0), (6, 6)))
        for kind in ("photos", "masks"):
            (tmp_path / kind / "sub").mkdir(parents=True, exist_ok=True)
        Image.fromarray(wide).save(
            tmp_path / "photos" / "sub" / f"{path.stem}.jpg", quality=98, subsampling=0
        )
        save_label_map(tmp_path / "masks" / "sub" / path.name, wide_mask, CATMASK_HQ)
    return tmp_path


def _prepare(folder: Path, *words: str, output: str = "mine.zip") -> Path:
    fixed = ["dataset=folder", f"images={folder / 'photos'}", "dataset.label_set=catmask_hq"]
    _run(folder, *fixed, f"resolution={SIDE}", f"output={folder / output}", *words)
    return folder / output


def test_bare_folders_become_a_data_set_with_the_cameras_that_the_heads_have(truth, photos):
    path = _prepare(photos, f"masks={photos / 'masks'}")
    _, index = open_dataset(path)
    assert index.names == tuple(f"sub/img{i:08d}.png" for i in range(NUM_CATS))
    expected = yaw_of_cameras(open_dataset(truth)[1].cameras)
    np.testing.assert_allclose(yaw_of_cameras(index.cameras), expected, atol=np.radians(8))
    assert (index.residuals < 0.03).all() and index.captions == ("a portrait of a cat",) * NUM_CATS
    for made, real in zip(_items(path), _items(truth), strict=True):
        assert torch.equal(made["label_map"], real["label_map"])
        assert (made["image"].float() - real["image"].float()).abs().mean() < 4
    with Image.open(photos / "run" / "preview.png") as preview:
        assert preview.size == (NUM_CATS * SIDE, 2 * SIDE)


def test_prepared_photos_pass_the_check_and_train(photos, tmp_path, capsys):
    path = _prepare(photos, f"masks={photos / 'masks'}")
    _run(tmp_path / "check", "check=true", f"data={path}")
    assert "no problems found" in capsys.readouterr().out
    assert "few images" in (tmp_path / "check" / "run" / "index.html").read_text()
    words = ["debug=tiny", "train.total_kimg=0.008", "train.tick_kimg=0.004", "metrics=none"]
    train.main([*words, f"data={path}", f"output={tmp_path / 'trained'}"])
    assert (tmp_path / "trained" / "checkpoint" / "config.yaml").is_file()


def _opengl_labels(path: Path) -> list:
    index = open_dataset(path)[1]
    opengl = index.cameras.copy()
    opengl[:, [1, 2, 5, 6, 9, 10]] *= -1
    return list(zip(index.names, opengl.tolist(), strict=True))


def test_known_cameras_are_kept_without_landmarks_and_opengl_axes_converted(truth, photos, capsys):
    (photos / "cameras.json").write_text(json.dumps({"labels": _opengl_labels(truth)}))
    # These masks have no landmarks.
    for path in (truth / "masks").rglob("*.png"):
        target = photos / "few" / path.name
        target.parent.mkdir(exist_ok=True)
        save_label_map(target, np.zeros((SIDE, SIDE), np.uint8), CATMASK_HQ)
    words = ["dataset=catmask_hq", f"images={truth / 'images'}", f"masks={photos / 'few'}"]
    words += [f"cameras={photos / 'cameras.json'}", f"resolution={SIDE}"]
    _run(photos, *words, f"output={photos / 'known'}")
    _, index = open_dataset(photos / "known")
    np.testing.assert_allclose(index.cameras, open_dataset(truth)[1].cameras, atol=1e-6)
    assert np.isnan(index.residuals).all() and "OpenGL" in capsys.readouterr().out


def test_captions_come_from_file_attributes_or_mask_in_this_order(truth, photos):
    names = [f"img{i:08d}" for i in range(NUM_CATS)]
    (photos / "captions.json").write_text(json.dumps({names[0]: "my cat"}))
    attributes = {name: {"Smiling": 1} for name in names[:2]}
    (photos / "attributes.json").write_text(json.dumps(attributes))
    words = ["dataset=catmask_hq", f"images={truth / 'images'}", f"masks={truth / 'masks'}"]
    words += [f"captions={photos / 'captions.json'}", f"attributes={photos / 'attributes.json'}"]
    words += [f"resolution={SIDE}"]
    _run(photos, *words, f"output={photos / 'all'}")
    index = open_dataset(photos / "all")[1]
    assert index.captions == ("my cat", "a smiling person", *["a portrait of a cat"] * 2)
    assert index.attributes[1] == {"Smiling": 1}
    _run(photos, *words, "caption_source=none", f"output={photos / 'few'}")
    assert open_dataset(photos / "few")[1].captions == ("my cat", "", "", "")


def test_photos_that_fail_are_listed_with_the_reason(photos, capsys):
    broken, small, blank = sorted((photos / "photos" / "sub").iterdir())[:3]
    broken.write_bytes(broken.read_bytes()[:300])
    Image.new("RGB", (40, 40)).save(small)
    for photo, size in ((small, (40, 40)), (blank, (SIDE, SIDE + 12))):
        mask = (photos / "masks" / "sub" / photo.name).with_suffix(".png")
        save_label_map(mask, np.zeros(size, np.uint8), CATMASK_HQ)
    (photos / "photos" / "sub" / "lonely.png").write_bytes(b"")
    path = _prepare(photos, f"masks={photos / 'masks'}")
    _, index = open_dataset(path)
    assert len(index.names) == NUM_CATS - 3
    reasons = dict(index.preparation["failed"])
    assert "truncated" in reasons[f"sub/{broken.stem}.png"]
    assert f"smaller than resolution={SIDE}" in reasons[f"sub/{small.stem}.png"]
    assert "at least 4" in reasons[f"sub/{blank.stem}.png"]
    assert "no mask" in reasons["sub/lonely.png"]
    output = capsys.readouterr().out
    assert "left out sub/lonely.png: no mask" in output
    assert "wrote 1 images" in output and "left out 4" in output


@pytest.mark.slow
def test_workers_change_nothing(photos):
    masks = f"masks={photos / 'masks'}"
    alone = _prepare(photos, masks, output="alone.zip").read_bytes()
    assert _prepare(photos, masks, "num_workers=1", output="shared.zip").read_bytes() == alone


def test_missing_masks_and_captions_come_from_networks(photos):
    classes = get_label_set("face_parsing_bisenet").class_names
    save_segmenter(photos / "parser", list(classes), classes.index("r_brow"))
    save_captioner(photos / "captioner")
    names = [f"img{i:08d}" for i in range(NUM_CATS)]
    face = [[20, 20], [40, 20], [30, 28], [24, 38], [36, 38]]
    landmarks = {f"sub/{name}": face for name in names}
    (photos / "landmarks.json").write_text(json.dumps(landmarks))
    path = photos / "parsed"
    _run(
        photos,
        "dataset=ffhq_mask",
        "dataset.copies_from=null",
        f"images={photos / 'photos'}",
        f"landmarks={photos / 'landmarks.json'}",
        f"parsing.model={photos / 'parser'}",
        "parsing.label_set=face_parsing_bisenet",
        f"captioning.model={photos / 'captioner'}",
        "caption_source=model",
        "crop=ffhq",
        "resolution=32",
        f"output={path}",
    )
    item = PortraitDataset(path)[0]
    r_brow = CELEBAMASK_HQ.class_id("r_brow")
    assert item["label_map"].unique().tolist() == [r_brow]
    assert item["caption"].startswith("cat")


def test_output_inside_what_is_read_and_wrong_models_are_one_line(photos, fail):
    fixed = ["dataset=ffhq_mask", f"images={photos / 'photos'}", f"paths.outputs={photos}"]
    words = [f"masks={photos / 'masks'}", f"output={photos}/masks/x"]
    assert "is inside the input masks=" in fail(prepare_data.main, *fixed, *words)
    words = [f"parsing.model={photos / 'nothing'}", "parsing.label_set=face_parsing_bisenet"]
    assert "nothing" in fail(prepare_data.main, *fixed, *words, f"output={photos / 'out'}")
    assert not (photos / "out").exists() and not list(photos.glob(".out*preparing"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["dataset=folder", "dataset.label_set=catmask_hq"],
            "missing required option: images=FOLDER",
        ),
        (["dataset=ffhq_mask", "images=x"], "photos need either masks=FOLDER or parsing.model="),
        (["dataset=ffhq_mask", "images=x", "parsing.model=y"], "parsing.label_set=null; is needed"),
        (
            ["dataset=ffhq_mask", "images=x", "masks=x", "parsing={model:y,label_set:catmask_hq}"],
            "either masks=FOLDER or",
        ),
        (
            ["dataset=ffhq_mask", "images=x", "masks=x", "landmark_source=detector"],
            "landmark_source=detector needs detection.model=",
        ),
        (
            ["dataset=ffhq_mask", "images=x", "masks=x", "caption_source=model"],
            "caption_source=model needs captioning.model=",
        ),
        (["dataset=ffhq_mask", "images=/nowhere", "masks=x"], "folder not found: /nowhere"),
        (
            ["dataset=ffhq_mask", "images=x", "masks=y", "cameras=z", "crop=ffhq"],
            "crop=ffhq; cannot be used with cameras=",
        ),
        (["images=x"], "option images=x has no effect with procedural portraits (only with photos"),
        (["dataset=packed"], "missing required option: data=... (see --help)"),
        (["dataset=packed", "data=x", "crop=none"], "option crop=none has no effect with dataset="),
        (["check=true", "data=x"], "no effect with check=true (only with check=true fix=...)"),
        (["dataset=packed", "data=/nowhere"], "not found: /nowhere"),
        (["crop=round"], "crop=round; use one of: none, center, ffhq, eg3d"),
        (
            ["dataset=folder", "dataset.label_set=dogs", "images=x", "masks=x"],
            "unknown label set 'dogs'",
        ),
        (["set_attributes={ears:2}"], "unknown attribute 'ears'"),
        (["max_repeats=0"], "max_repeats=0; use an integer of at least 1"),
        (["output="], "missing required option: output=... (see --help)"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, fail, words, message):
    fixed = [f"paths.outputs={tmp_path}", f"output={tmp_path / 'out'}"]
    assert message in fail(prepare_data.main, *fixed, *words)
    assert not (tmp_path / "out").exists()


def test_check_exits_with_1_on_faults_and_repairs_a_copy(truth, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(truth, broken)
    opengl = _opengl_labels(truth)
    edit_json(broken / "dataset.json", lambda index: index.update(labels=opengl))
    with pytest.raises(SystemExit) as info:
        _run(tmp_path, "check=true", f"data={broken}")
    assert info.value.code == 1
    assert "error camera_convention" in capsys.readouterr().out
    fixed = tmp_path / "fixed.zip"
    words = [f"data={broken}", "fix=camera_convention,image_format", f"output={fixed}"]
    _run(tmp_path, "check=true", *words)
    assert "no problems found" in capsys.readouterr().out
    np.testing.assert_allclose(open_dataset(fixed)[1].cameras, open_dataset(truth)[1].cameras)
    with pytest.raises(SystemExit) as info:
        _run(tmp_path, "check=true", f"data={tmp_path / 'run'}")
    assert info.value.code == 2
    error = capsys.readouterr().err
    assert "no dataset.json, images/ or masks/" in error
