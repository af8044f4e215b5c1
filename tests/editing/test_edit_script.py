"""scripts.edit from the command line: a whole edit, and every wrong input."""

import json
import re
import signal

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from editing.edited_portrait import WRITTEN_FILES
from editing.loop import EditLoop
from editing.portrait import open_portrait
from editing.session import replay
from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator
from mate3d.generation.rendering import HeadMaker, Precision
from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ, save_label_map
from mate3d.outputs.visualize import to_uint8
from scripts import edit, generate
from scripts._compose import read_options
from scripts._words import CONFIG_FOLDER

TINY = ["debug=tiny", "device=cpu"]
RESULTS = (
    "source.png source_mask.png target_mask.png edited.png edited_mask.png normals.png views.png "
    "orbit.mp4 report.html receipt.json edit.safetensors recipe.yaml config.yaml"
).split()


@pytest.fixture(scope="module")
def painted_mask(generator_folder, tmp_path_factory):
    """The exported source mask with a square of ears."""
    folder = tmp_path_factory.mktemp("painted")
    edit.main([*TINY, f"generator={generator_folder}", f"output={folder}"])
    label_map = load_label_map(folder / "paint_me.png", CATMASK_HQ)
    label_map[8:24, 8:24] = CATMASK_HQ.class_id("ears")
    save_label_map(folder / "painted.png", label_map, CATMASK_HQ)
    return folder / "painted.png"


@pytest.fixture(scope="module")
def words(generator_folder, prior_folder, painted_mask):
    """A complete command line without its output folder."""
    return [
        *TINY,
        f"generator={generator_folder}",
        f"guidance.prior={prior_folder}",
        f"mask={painted_mask}",
        "prompt=a cat with ears",
    ]


@pytest.fixture(scope="module")
def result(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edit")
    edit.main([*words, f"output={folder}"])
    return folder


def test_all_results_are_there_in_their_sizes_and_nothing_partial(painted_mask, result):
    assert Image.open(painted_mask.parent / "source.png").size == (32, 32)
    assert Image.open(painted_mask.parent / "paint_me.png").mode == "P"
    assert all(WRITTEN_FILES.fullmatch(path.name) for path in result.iterdir())
    assert not WRITTEN_FILES.fullmatch("paint_me.png")
    for name in RESULTS:
        assert (result / name).stat().st_size > 0, name
    assert not list(result.glob(".partial*"))
    for name in ("source", "edited", "normals", "source_mask", "target_mask", "edited_mask"):
        assert Image.open(result / f"{name}.png").size == (32, 32), name
    assert Image.open(result / "views.png").size == (5 * 32, 2 * 32)
    assert imageio.imread(result / "orbit.mp4").shape == (4, 256, 256, 3)


def test_receipt_holds_the_numbers(result):
    receipt = json.loads((result / "receipt.json").read_text())
    assert receipt["edit_classes"] == ["ears"]
    ears = receipt["labels"]["ears"]
    assert ears["change"] == "repainted" and 0 <= ears["iou"]["after"] <= 1
    assert set(receipt["labels"]) - {"ears"} and receipt["summary"]["score"] > 0
    assert receipt["psnr_outside_region_db"] > 20
    assert len(receipt["psnr_outside_region_other_views_db"]) == 5
    assert receipt["num_steps"] == receipt["num_steps_planned"] == 2
    assert receipt["seconds"]["total"] >= receipt["seconds"]["optimization"] > 0
    assert receipt["peak_memory_mib"] > 0
    assert len(receipt["config_hash"]) == 16
    assert receipt["region"]["rim"] == 0.03


def test_the_receipts_psnr_is_that_of_the_written_pictures(result):
    receipt = json.loads((result / "receipt.json").read_text())
    names = ("source_mask", "target_mask", "edited_mask")
    label_maps = [load_label_map(result / f"{name}.png", CATMASK_HQ) for name in names]
    is_ears = np.any([label_map == CATMASK_HQ.class_id("ears") for label_map in label_maps], axis=0)
    # 3 % of 32 pixels is less than a pixel, so there is no rim.
    outside = ~is_ears
    source, edited = (
        np.asarray(Image.open(result / f"{name}.png"), float)[outside]
        for name in ("source", "edited")
    )
    psnr = 10 * np.log10(255**2 / np.square(edited - source).mean())
    assert receipt["psnr_outside_region_db"] == pytest.approx(psnr)


def test_the_log_names_every_stage_in_order_and_is_short(result):
    log = (result / "log.txt").read_text()
    lines = [line.partition("INFO ")[2] for line in log.splitlines() if " INFO " in line]
    stages = [re.fullmatch(r"torch_utils.stages: (.+): \d+\.\d s", line) for line in lines]
    assert [found[1] for found in stages if found] == [
        "Loading the generator",
        "Rendering the source",
        "Loading the prior",
        "Optimising",
        "Rendering views",
        "Rendering the orbit video",
        "Writing the report",
    ]
    assert len(lines) < 25
    steps = [line for line in log.splitlines() if "DEBUG editing.loop: step" in line]
    assert len(steps) == 2
    for number in ("loss=", "IoU=", "PSNR=", "mask_raw=", "distillation="):
        assert number in steps[0] and number in steps[1]


def test_report_refers_to_files_beside_it(result):
    found = re.findall('(?:src|href)="([^"]+)"', (result / "report.html").read_text())
    assert {"source.png", "edited.png", "views.png", "orbit.mp4"} <= set(found)
    for name in found:
        assert (result / name).is_file(), name


def test_saved_edit_reproduces_the_edited_picture(result, generator_folder):
    generator = load_generator(generator_folder)
    again = replay(open_portrait(generator, result, truncation_psi=0.7))
    assert again.portrait.steps[-1].recipe.prompt == "a cat with ears"
    saved = np.asarray(Image.open(result / "edited.png"))
    assert np.array_equal(to_uint8(again.image[0]), saved)


VARIANTS = sorted(path.stem for path in (CONFIG_FOLDER / "edit").glob("*.yaml"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs(words, tmp_path, variant):
    short = ["edit.num_steps=1", "report.num_orbit_frames=1"]
    edit.main([*words, f"output={tmp_path}", f"edit={variant}", *short])
    assert (tmp_path / "edited.png").is_file()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("prompt", "{a:1}"),
        ("prompt", "[red ears]"),
        ("prompt", "a cat's ears, black (not grey) = 100%"),
        ("negative_prompt", "null and void"),
        ("mask", "7"),
        ("mask", "2024_01_01"),
        ("generator", "\\\\nas\\share"),
    ],
)
def test_text_is_taken_as_it_is_written(option, text):
    assert getattr(read_options("edit", [f"{option}={text}", "output=x"]), option) == text
    options = read_options("edit", [f"guidance.prior={text}", "output=x"])
    assert options.guidance.prior == text


def test_classes_are_a_list_with_brackets_or_without(monkeypatch):
    monkeypatch.setenv("HOME", "/home/cat")
    for text in ("ears,eyes", "[ears, eyes]"):
        options = read_options("edit", [f"edit_classes={text}", "output=~/x", "debug=null"])
        assert options.edit_classes == ("ears", "eyes")
        assert options.output == options.paths.run_folder == "/home/cat/x"
    assert read_options("edit", ["output=x"]).edit_classes == ("auto",)


def test_angles_of_the_command_line_are_degrees(words, tmp_path):
    start = [word for word in words if not word.startswith(("mask=", "prompt="))]
    for name, angles in (("front", []), ("side", ["yaw_degrees=180", "pitch_degrees=20"])):
        edit.main([*start, *angles, f"output={tmp_path / name}"])
    front, side = (Image.open(tmp_path / name / "source.png") for name in ("front", "side"))
    generator = load_generator(words[2].removeprefix("generator="))
    camera = make_camera(np.pi, np.pi / 9)
    ws = HeadMaker(generator, Precision(torch.device("cpu")), 0.7).style(0)
    with torch.no_grad():
        expected = to_uint8(generator.synthesize(ws, camera).image[0])
    assert np.array_equal(np.asarray(side), expected)
    assert not np.array_equal(np.asarray(front), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("generator=no/such/folder", "no checkpoint at no/such/folder"),
        ("mask=no_such.png", "mask not found: no_such.png"),
        ("mask=BIG", "use 32 x 32 pixels"),
        ("mask=UNKNOWN", "unknown ids"),
        ("mask=COLOR", "colour(s) not in catmask_hq"),
        ("mask=CORRUPT", "is not a readable image"),
        ("mask=UNCHANGED", "equals the source mask"),
        ("mask=OTHER", "seems to be painted for another source"),
        ("prompt=", "prompt is empty"),
        ("edits=no_such.yaml", "edits=no_such.yaml is not readable"),
        ("views=[{mask: no_such.png}]", "mask not found: no_such.png"),
        ("views=[{mask: x.png, yaw: 3}]", "yaw"),
        ("views=[{mask: x.png, pitch_degrees: 100}]", "views.pitch_degrees=100"),
        ("views=[7]", "views=[7]; use a list, each item a group of options"),
        ("num_samples=0", "num_samples=0"),
        ("edit.seed=-1", "edit.seed=-1"),
        ("edit_classes=[horns]", "unknown class 'horns'"),
        ("edit_classes=[]", "edits nothing"),
        ("guidance.prior=no/such/prior", "guidance.prior not found"),
        ("edit.condition=painted", "edit.condition=painted"),
        ("edit.learnable=[decoder]", "'decoder' names no weights"),
        ("seed=-1", "source=-1"),
        ("mask=7", "mask not found: 7"),
        ("guidance.controlnet=2024", "guidance.controlnet not found: 2024"),
        ("edit.ws_lr=-1", "edit.ws_lr=-1"),
        ("edit.outside_weight=nan", "edit.outside_weight=nan"),
        ("edit.num_geometry_points=0", "edit.num_geometry_points=0"),
        ("edit.region.softness=-1", "edit.region.softness=-1"),
        ("edit.distillation.final_max_timestep=0.01", "edit.distillation.final_max_timestep=0.01"),
        ("report.orbit_fps=0", "report.orbit_fps=0"),
        ("pitch_degrees=90", "pitch_degrees=90"),
        ("yaw=0.3", "unknown option 'yaw'; did you mean yaw_degrees"),
        ("edit.yaw_range=[-1,1]", "did you mean edit.yaw_range_degrees"),
        ("guidance.dtype=float16", "unknown option 'guidance.dtype'"),
        ("guidance.precision=float16", "guidance.precision=float16; use one of: auto, fp32"),
    ],
)
def test_wrong_input_gives_one_line_and_code_2(
    words, painted_mask, tmp_path, fail, change, message
):
    names = ("BIG", "UNKNOWN", "COLOR", "CORRUPT")
    files = {name: tmp_path / f"{name.lower()}.png" for name in names}
    files["UNCHANGED"] = painted_mask.parent / "paint_me.png"
    files["OTHER"] = tmp_path / "other.png"
    other = load_label_map(files["UNCHANGED"], CATMASK_HQ)[::-1, ::-1]
    save_label_map(files["OTHER"], other, CATMASK_HQ)
    Image.new("L", (48, 48)).save(files["BIG"])
    Image.new("L", (32, 32), 200).save(files["UNKNOWN"])
    Image.new("RGB", (32, 32), (9, 9, 8)).save(files["COLOR"])
    files["CORRUPT"].write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    key, value = change.split("=", 1)
    change = f"{key}={files.get(value, value)}"
    kept = [word for word in words if not word.startswith(f"{key}=")]
    assert message in fail(edit.main, *kept, f"output={tmp_path / 'out'}", change)


def test_mixed_colours_are_refused_or_snapped_with_a_count(
    words, painted_mask, tmp_path, fail, capsys
):
    colors = np.array(Image.open(painted_mask).convert("RGB"))
    colors[10:12, 10] += 3
    Image.fromarray(colors).save(tmp_path / "mask.png")
    change = [f"output={tmp_path / 'out'}", f"mask={tmp_path / 'mask.png'}"]
    assert "mask_snap=true" in fail(edit.main, *words, *change)
    edit.main([*words, *change, "mask_snap=true"])
    assert "snapped 2 of 1024 pixels" in capsys.readouterr().out
    result = load_label_map(tmp_path / "out" / "target_mask.png", CATMASK_HQ)
    assert np.array_equal(result, load_label_map(painted_mask, CATMASK_HQ))


def test_missing_mask_is_told_before_a_missing_prompt(words, tmp_path, fail):
    kept = [word for word in words if not word.startswith(("mask=", "prompt="))]
    message = fail(edit.main, *kept, f"output={tmp_path}", "mask=no_such.png")
    assert "mask not found: no_such.png" in message


def test_an_interrupted_edit_writes_what_exists_and_tells_the_step(
    words, tmp_path, monkeypatch, capsys
):
    step = EditLoop.step

    def step_and_interrupt(self, progress):
        signal.raise_signal(signal.SIGINT)
        return step(self, progress)

    monkeypatch.setattr(EditLoop, "step", step_and_interrupt)
    edit.main([*words, f"output={tmp_path}", "edit.num_steps=100"])
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert (receipt["num_steps"], receipt["num_steps_planned"]) == (1, 100)
    assert f"stopped after step 1 of 100; writing the edit so far to {tmp_path}" in (
        capsys.readouterr().out
    )
    assert "Stopped after" in (tmp_path / "report.html").read_text()


def test_an_edited_head_is_generated_and_its_edit_made_again(
    result, words, generator_folder, tmp_path
):
    place = [f"generator={generator_folder}", f"source={result}", "device=cpu"]
    options = ["mesh.enabled=true", "mesh.per_label=true", "pictures=all", "mesh.resolution=16"]
    generate.main(["debug=tiny", *place, *options, f"output={tmp_path / 'heads'}"])
    names = {path.name for path in (tmp_path / "heads").glob("edited*")}
    assert any(name.endswith("_segmentation.png") for name in names)
    assert any(name.endswith("_ears.ply") for name in names), names
    again = ["debug=tiny", *place, "strength=1", f"output={tmp_path / 'again'}"]
    edit.main(again)
    for name in ("edited.png", "views.png", "edited_mask.png"):
        assert (tmp_path / "again" / name).read_bytes() == (result / name).read_bytes()
    with pytest.raises(SystemExit):
        edit.main([*again, "without=[3]"])


def test_a_latent_file_is_a_source(words, generator_folder, tmp_path):
    np.save(tmp_path / "z.npy", np.random.RandomState(0).randn(16))
    place = ["device=cpu", f"generator={generator_folder}"]
    for name, source in (("file", tmp_path / "z.npy"), ("seed", 0)):
        edit.main(["debug=tiny", *place, f"source={source}", f"output={tmp_path / name}"])
    pictures = [(tmp_path / name / "source.png").read_bytes() for name in ("file", "seed")]
    assert pictures[0] == pictures[1]
