"""What a user may ask for, and the words for what not."""

import pytest

from mate3d.errors import UserError
from mate3d.generation.options import parse_seeds, read_options
from mate3d.generator import GeneratorConfig
from mate3d.option_checks import parse_words
from mate3d.rendering.renderer import RenderingConfig


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("0,3,5-7", (0, 3, 5, 6, 7)),
        (" 4 , 2 ", (4, 2)),
        ([0, "2-3"], (0, 2, 3)),
        (12, (12,)),
        ("5,4-6,5", (5, 4, 6)),
        ("4294967295", (2**32 - 1,)),
    ],
)
def test_seeds_are_numbers_ranges_and_lists(value, seeds):
    assert parse_seeds("seeds", value) == seeds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "cannot read ''"),
        ([], "seeds is empty"),
        (None, "seeds=None: cannot read 'None'"),
        ("a", "cannot read 'a'; use whole numbers"),
        ("-1", "cannot read '-1'"),
        ("1.5", "cannot read '1.5'"),
        ("1,,2", "cannot read ''"),
        ("7-0", "'7-0' is out of order or range"),
        ("4294967296", "out of order or range"),
        ("0-4294967295", "more than 1000000 seeds"),
        ([True], "cannot read 'True'"),
    ],
)
def test_other_seeds_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        parse_seeds("seeds", value)


def test_words_come_with_commas_or_as_a_list():
    assert parse_words("x", "mp4, gif,mp4") == parse_words("x", ["mp4", "gif"]) == ("mp4", "gif")
    with pytest.raises(UserError, match="at least one word"):
        parse_words("x", [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"truncation_psi": 2.1}, r"truncation_psi=2.1; use 0 \(the average head\) to 2"),
        ({"truncation_psi": None}, "truncation_psi=None; use a number"),
        ({"truncation_cutoff": -1}, "truncation_cutoff=-1; use a whole number from 0"),
        ({"pictures": "photo"}, "pictures holds 'photo'; use any of: image, segmentation"),
        ({"pictures": []}, r"pictures=\[\]; give at least one word"),
        ({"video": {"formats": "mp5"}}, "video: unknown video format 'mp5'; use mp4 or gif"),
        ({"video": {"fps": 0}}, "video.fps=0; use a number above 0"),
        ({"video": {"formats": "gif", "fps": 60}}, "a gif plays at most 50"),
        ({"video": None}, "video=None; give its options one by one"),
        ({"mix": {"shape_seeds": "1"}}, "needs both mix.shape_seeds and mix.texture_seeds"),
        ({"mix": {"shape_seeds": "x", "texture_seeds": 1}}, "mix.shape_seeds=x: cannot read"),
        ({"interpolate": True, "seeds": "4"}, "interpolate=true needs two or more seeds"),
        ({"interpolate": True, "views": {"path": "grid"}}, "views.path=grid; use front"),
        ({"interpolate": True, "views": {"num_frames": 1}}, "views.num_frames=1; use a whole"),
        ({"interpolate": True, "mesh": {"enabled": True}}, "leave out mix and mesh.enabled"),
        ({"with_depth_values": True, "views": {"path": "orbit"}}, "is for stills"),
        ({"mesh": {"formats": "stl"}}, r"mesh.formats=\[stl\]; use some of ply"),
        (
            {"views": {"angles_degrees": [[-20, 0], [0, 10]]}},
            r"views.angles_degrees=\[\[-20,0\],\[0,10\]\] is for views.path=list; .* is front",
        ),
        ({"mesh": {"per_label": True}}, "mesh.per_label=true is for meshes; say mesh.enabled=true"),
        ({"mesh": {"coloring": "label"}}, "mesh.coloring=label is for meshes; say mesh.enabled"),
        ({"dtype": "float64"}, "dtype=float64; use one of: float32"),
        ({"neural_rendering_resolution": 0}, "neural_rendering_resolution=0; use a whole number"),
        ({"sheet_tiles": -1}, "sheet_tiles=-1; use a whole number"),
    ],
)
def test_impossible_options_are_named(values, message):
    with pytest.raises(UserError, match=message):
        read_options({"seeds": "0-3"} | values)


def _unlabelled_config() -> GeneratorConfig:
    rendering = RenderingConfig(density_activation="softplus_shifted")
    return GeneratorConfig(
        label_set="unlabelled", plane_branches="single", geometry="density", rendering=rendering
    )


def test_all_pictures_are_those_that_the_generator_has():
    options = read_options({"seeds": 0, "pictures": "all"})
    assert "segmentation" in options.picture_kinds(GeneratorConfig())
    assert options.picture_kinds(_unlabelled_config()) == ("image", "depth", "normals", "opacity")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pictures": "image,segmentation"}, "this generator has no labels"),
        ({"mesh": {"enabled": True, "coloring": "label"}}, "mesh: labels are asked for"),
        ({"mix": {"shape_seeds": 1, "texture_seeds": 2}}, "the same planes for shape and"),
    ],
)
def test_what_an_unlabelled_generator_lacks_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        read_options({"seeds": 0} | values).check_generator(_unlabelled_config())
