"""The whole path from nothing to pictures and an edit, at the tiny sizes of debug=tiny."""

import json
from typing import Any

from mate3d.labels import CATMASK_HQ, load_label_map, save_label_map
from scripts import edit, generate, prepare_data, train, train_prior


def run_every_script(num_images: int, *words: str) -> dict[str, Any]:
    """Prepare data, train generator and prior, generate, edit; each on the files of those before.

    Args:
        num_images: Size of the data set.
        words: Further options of all but the first, e.g. device=cuda.

    Returns:
        The edit's receipt; all files lie in the current directory.
    """
    prepare_data.main([f"num_images={num_images}", "resolution=64", "output=data.zip"])
    tiny = ["debug=tiny", *words]
    train.main([*tiny, "train.warm_start=procedural", "data=data.zip", "output=run"])
    train_prior.main([*tiny, "data=data.zip", "output=prior"])
    heads = ["generator=run/checkpoint", "seeds=0,1", "pictures=all"]
    generate.main([*tiny, *heads, "output=heads"])
    source = [*tiny, "generator=run/checkpoint", "output=edit"]
    edit.main(source)
    label_map = load_label_map("edit/source_mask.png", CATMASK_HQ)
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
    with open("edit/receipt.json") as file:
        receipt = json.load(file)
    assert set(receipt["mask_iou"]) == {CATMASK_HQ.class_names[painted]}
    return receipt
