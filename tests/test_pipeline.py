"""The whole path at the tiny sizes of debug=tiny: each script on the files of those before it."""

import json

import pytest

from mate3d.checkpoint import load_generator
from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ, save_label_map
from scripts import edit, generate, prepare_data, train, train_prior


@pytest.mark.parametrize(
    ("device", "num_images"),
    [
        pytest.param("cpu", 200, marks=pytest.mark.slow),
        pytest.param("cuda", 16, marks=pytest.mark.gpu),
    ],
)
def test_data_generator_prior_pictures_and_edit_follow_from_each_other(
    tmp_path, monkeypatch, device, num_images
):
    monkeypatch.chdir(tmp_path)
    prepare_data.main([f"num_images={num_images}", "resolution=64", "output=data.zip"])
    tiny = ["debug=tiny", f"device={device}"]
    train.main([*tiny, "train.warm_start=procedural", "data=data.zip", "output=run"])
    train_prior.main([*tiny, "data=data.zip", "output=prior"])
    heads = ["generator=run/checkpoint", "seeds=0,1", "pictures=all"]
    generate.main([*tiny, *heads, "output=heads"])
    source = [*tiny, "generator=run/checkpoint", "output=edit"]
    edit.main(source)
    label_map = load_label_map("edit/paint_me.png", CATMASK_HQ)
    # One that hardly trained shows few parts of the face: the rarest surely changes the mask.
    parts = [CATMASK_HQ.class_id(name) for name in ("ears", "eyes", "mouth", "nose")]
    painted = min(parts, key=lambda part: (label_map == part).sum())
    label_map[4:10, 6:26] = painted
    save_label_map("edit/painted.png", label_map, CATMASK_HQ)
    request = [
        "mask=edit/painted.png",
        "guidance.prior=prior/model",
        f"prompt=a cat with black {CATMASK_HQ.class_names[painted]}",
    ]
    edit.main([*source, *request])
    receipt = json.loads((tmp_path / "edit" / "receipt.json").read_text())
    assert receipt["edit_classes"] == [CATMASK_HQ.class_names[painted]]
    assert load_generator("run/checkpoint").config.resolution == 32
    for name in ("edited.png", "views.png", "orbit.mp4", "report.html", "edit.safetensors"):
        assert (tmp_path / "edit" / name).stat().st_size > 0, name
    for name in ("sheet_image.png", "sheet_segmentation.png", "metadata.json"):
        assert (tmp_path / "heads" / name).stat().st_size > 0, name
