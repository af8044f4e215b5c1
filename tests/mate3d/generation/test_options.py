"""What a user may ask for, and the words for what not."""

from typing import Any

import pytest

from mate3d.errors import UserError
from mate3d.generation.options import GenerationOptions, parse_seeds
from mate3d.generator import GeneratorConfig
from mate3d.options import config_from_dict
from tests.eg3d import EG3D


def _read(values: dict[str, Any]) -> GenerationOptions:
    return config_from_dict(GenerationOptions, values)


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("0,3,5-7", (0, 3, 5, 6, 7)),
        (" 4 , 2 ", (4, 2)),
        ("[0, 2-3]", (0, 2, 3)),
        ("5,4-6,5", (5, 4, 6)),
        ("4294967295", (2**32 - 1,)),
    ],
)
def test_seeds_are_numbers_ranges_and_lists(value, seeds):
    assert parse_seeds("seeds", value) == seeds


@pytest.mark.parametrize(
    "value", ["", "[]", "a", "-1", "1.5", "1,,2", "7-0", "4294967296", "0-4294967295"]
)
def test_other_seeds_are_refused(value):
    with pytest.raises(UserError, match="seeds"):
        parse_seeds("seeds", value)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"truncation_cutoff": -1}, "truncation_cutoff=-1"),
        ({"pictures": ()}, r"pictures=\[\]"),
        ({"video": {"formats": ("gif",), "fps": 60}}, "video.fps=60.* 50"),
        ({"video": None}, "video=null"),
        ({"interpolate": True, "seeds": "4"}, "interpolate=true"),
        ({"interpolate": True, "views": {"path": "grid"}}, "views.path=grid"),
        ({"interpolate": True, "mesh": {"enabled": True}}, "mesh.enabled"),
        ({"with_depth_values": True, "views": {"path": "orbit"}}, "with_depth_values=true"),
        ({"views": {"angles_degrees": [[-20, 0]]}}, "views.angles_degrees=.*path=list"),
        ({"mesh": {"per_label": True}}, "mesh.per_label=true"),
        ({"mesh": {"coloring": "label"}}, "mesh.coloring=label"),
        ({"mix": {"shape_seeds": "1"}}, "mix.texture_seeds"),
        ({"sheet_tiles": -1}, "sheet_tiles=-1"),
    ],
)
def test_impossible_options_are_named(values, named):
    with pytest.raises(UserError, match=named):
        _read({"seeds": "0-3"} | values)


def test_all_pictures_are_those_that_the_generator_has():
    options = _read({"pictures": ("all",)})
    assert "segmentation" in options.picture_kinds(GeneratorConfig())
    assert options.picture_kinds(EG3D) == ("image", "depth", "normals", "opacity")


def test_what_an_unlabelled_generator_lacks_is_refused():
    for name, value in (
        ("pictures", ("image", "segmentation")),
        ("mesh", {"enabled": True, "coloring": "label"}),
        ("mix", {"shape_seeds": "1", "texture_seeds": "2"}),
    ):
        with pytest.raises(UserError, match=name):
            _read({name: value}).check_generator(EG3D)
