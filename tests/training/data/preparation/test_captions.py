"""Captions from files, from attributes and from label maps."""

import json

import numpy as np
import pytest

from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, LabelSet, get_label_set
from training.data.preparation.caption_files import read_captions
from training.data.preparation.captions import caption_from_attributes, caption_from_labels


def test_all_forms_of_files_say_the_same(tmp_path):
    wanted = {"a.png": 'a "grey" cat, old', "sub/b.png": "two lines"}
    (tmp_path / "c.json").write_text(json.dumps(wanted | {"sub/b.png": "two \n lines "}))
    lines = [json.dumps({"file_name": n, "text": t, "more": 1}) for n, t in wanted.items()]
    (tmp_path / "metadata.jsonl").write_text("\n".join([*lines, ""]))
    rows = 'a.png,"a ""grey"" cat, old"\nsub/b.png,two lines\n'
    (tmp_path / "plain.csv").write_text(rows)
    (tmp_path / "headed.csv").write_text("name,caption\n" + rows, encoding="utf-8-sig")
    for name in ("c.json", "metadata.jsonl", "plain.csv", "headed.csv"):
        assert read_captions(tmp_path / name) == wanted, name
    (tmp_path / "texts/sub").mkdir(parents=True)
    (tmp_path / "texts/a.txt").write_text(wanted["a.png"])
    (tmp_path / "texts/sub/b.txt").write_text("two\nlines\n")
    assert read_captions(tmp_path / "texts") == {"a": wanted["a.png"], "sub/b": "two lines"}


def test_columns_of_a_csv_may_stand_in_any_order(tmp_path):
    (tmp_path / "c.csv").write_text("file_name,size,text\na.png,3,a cat\n")
    assert read_captions(tmp_path / "c.csv") == {"a.png": "a cat"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", None, "captions not found"),
        ("c.xml", "", "use .json, .jsonl, .csv or a folder"),
        ("c.json", "[]", "must be {name: text}"),
        ("c.json", "{}", "are empty"),
        ("c.json", '{"a": 3}', "'a' must be a name with a text"),
        ("c.jsonl", '{"file_name": "a"}\n', "line 1 needs one of file_name"),
        ("c.jsonl", "{\n", "line 1 is not JSON"),
        ("c.csv", "a,b,c\n", "row 1: use name,caption"),
        ("c.csv", "name,words\na,b\n", "row 2 needs one of"),
        ("c.csv", "a,x\na,y\n", "names a twice"),
        ("c.csv", b"\xff\xfe\xfa", "are not readable"),
    ],
)
def test_malformed_files_are_refused(tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_captions(tmp_path / name)


@pytest.mark.parametrize(
    ("true", "caption"),
    [
        (
            {"Smiling", "Young", "Black_Hair", "Wearing_Hat", "No_Beard"},
            "a smiling young woman with black hair wearing a hat",
        ),
        ({"Male", "No_Beard"}, "a man"),
        ({"Male"}, "a man with a beard"),
        (
            {"Male", "Bald", "Goatee", "Eyeglasses", "Wearing_Necktie"},
            "a bald man with a goatee wearing glasses and a necktie",
        ),
        (
            {"Wavy_Hair", "Blond_Hair", "Bangs", "Wearing_Earrings", "Attractive", "No_Beard"},
            "a woman with wavy blond hair and bangs wearing earrings",
        ),
    ],
)
def test_attributes_become_a_sentence(true, caption):
    names = {"Male", "Young", "Smiling", "No_Beard", "Attractive", *true}
    assert caption_from_attributes({name: float(name in true) for name in names}) == caption


def test_attributes_that_are_not_celebas_give_no_caption():
    assert caption_from_attributes({"age": 3.0}) == caption_from_attributes({}) == ""
    assert caption_from_attributes({"Smiling": 1.0}) == "a smiling person"


def _map(label_set: LabelSet, *names: str) -> np.ndarray:
    label_map = np.zeros((64, 64), np.uint8)
    for row, name in enumerate(names):
        label_map[row] = label_set.class_id(name)
    return label_map


def test_visible_classes_become_a_sentence():
    eyes = ("l_eye", "r_eye")
    cases = {
        ("skin", "hair", *eyes): "a portrait of a person",
        ("hat", "ear_r", *eyes): "a portrait of a person wearing a hat and earrings",
        ("eye_g",): "a portrait of a person wearing glasses",
        ("l_eye", "mouth"): "a portrait of a person with an open mouth",
        ("skin",): "a portrait of a person with closed eyes",
    }
    for names, caption in cases.items():
        assert caption_from_labels(_map(CELEBAMASK_HQ, *names), CELEBAMASK_HQ) == caption


def test_a_class_of_one_pixel_in_many_is_not_mentioned():
    label_map = _map(CELEBAMASK_HQ, "l_eye").repeat(2, 0).repeat(2, 1)
    label_map[-1, -1] = CELEBAMASK_HQ.class_id("hat")
    assert caption_from_labels(label_map, CELEBAMASK_HQ) == "a portrait of a person"


def test_sets_say_what_they_can():
    assert caption_from_labels(_map(CATMASK_HQ, "eyes", "mouth"), CATMASK_HQ) == (
        "a portrait of a cat"
    )
    face_8 = get_label_set("face_8")
    assert caption_from_labels(_map(face_8, "eyes", "mouth"), face_8) == "a portrait of a person"
