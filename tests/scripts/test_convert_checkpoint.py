"""The conversion script: folder, report, verification and exit codes."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator
from mate3d.generator import Generator
from scripts import convert_checkpoint
from tests.eg3d import make_generator
from tests.golden import EXPECTED, SNAPSHOT
from tests.official_format import (
    CAT_CONFIG,
    make_network,
    published_state,
    randomize,
    write_snapshot,
)


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def convert(*words: str) -> None:
    convert_checkpoint.main(["output=out/face", *words])


def fail(capsys, code: int, *words: str) -> str:
    """Run a conversion that must end with an exit code; return what it printed as errors."""
    with pytest.raises(SystemExit) as info:
        convert(*words)
    assert info.value.code == code
    return capsys.readouterr().err


def refuse(capsys, *words: str) -> str:
    (line,) = fail(capsys, 2, *words).strip().splitlines()
    return line


def write_expected(path: Path, generator: Generator, state: dict[str, torch.Tensor]) -> Path:
    """Record a generator's own values in the layout of the developers' file."""
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(2, generator.config.z_dim, generator=draws)
    camera = make_camera(torch.tensor([0.2, -0.1]))
    condition = make_camera(torch.zeros(2))
    ws = generator.map(z, condition, truncation_psi=0.7)
    view = generator.synthesize(ws, camera)
    tensors = {"in.z": z, "in.c": camera, "in.c_cond": condition, "ws": ws}
    tensors |= {"image": view.image, "image_raw": view.image_raw, "image_depth": view.depth}
    if view.segmentation is not None:
        tensors["semantic"] = view.segmentation[..., ::4, ::4]
        tensors["semantic_raw"] = view.segmentation_raw
    sums = [[t.double().sum(), t.double().abs().sum()] for t in state.values()]
    tensors["sums.G_ema"] = torch.tensor(sums, dtype=torch.float64)
    layout = [[name, list(t.shape), str(t.dtype)] for name, t in state.items()]
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, path, {"state": json.dumps({"G_ema": layout})})
    return path


def test_the_developers_snapshot_is_verified_and_written(capsys):
    convert(f"source={SNAPSHOT}", f"verify={EXPECTED}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "verified: yes"
    assert "mapped from G_ema: 254 tensors" in lines
    assert any(line.split()[:2] == ["D_semantic", "65"] for line in lines)
    errors = {line.split()[0]: float(line.split()[1]) for line in lines if "1e-04" in line}
    assert set(errors) >= {"ws", "image", "semantic", "D", "Ds"} and max(errors.values()) < 1e-5
    folder = Path("out/face")
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.md",
        "config.yaml",
        "generator.safetensors",
    ]
    generator = load_generator(folder)
    expected = load_file(EXPECTED)
    ws = generator.map(expected["in.z"], expected["in.c_cond"], truncation_psi=0.7)
    image = generator.synthesize(ws, expected["in.c"]).image
    torch.testing.assert_close(image, expected["image"], atol=1e-4, rtol=1e-4)
    card = (folder / "card.md").read_text()
    assert "d55f24c4f8548e520482da19ec1133cfbc686f863a2c8fdb46dc930b8a6be39e" in card


def test_verification_picture_shows_no_difference():
    convert(f"source={SNAPSHOT}", f"verify={EXPECTED}", "paths.run_folder=run")
    picture = np.asarray(Image.open("run/verification.png")).astype(int)
    left, middle, right = np.split(picture, 3, axis=1)
    assert np.abs(left - middle).max() <= 1 and left.std() > 20
    assert np.abs(right - 128).max() <= 2
    assert (Path("run") / "log.txt").read_text().rstrip().endswith("verified: yes")


def test_failed_verification_exits_with_1_and_writes_no_folder(capsys):
    tensors = load_file(EXPECTED)
    tensors["image"][0, 0, 0, 0] += 3e-4 * tensors["image"].abs().max()
    with open(EXPECTED, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    save_file(tensors, "wrong.safetensors", header["__metadata__"])
    with pytest.raises(SystemExit) as info:
        convert(f"source={SNAPSHOT}", "verify=wrong.safetensors", "paths.run_folder=run")
    assert info.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "verified: no"
    (marked,) = [line for line in lines if "too large" in line]
    assert marked.startswith("image ")
    assert not Path("out").exists()
    # The log is complete and closed.
    assert "verified: no" in Path("run/log.txt").read_text()


def test_half_precision_is_smaller_but_not_verified(capsys):
    convert(f"source={SNAPSHOT}", "debug=tiny")
    size = Path("out/face/generator.safetensors").stat().st_size
    assert size < 0.6 * SNAPSHOT.stat().st_size / 2
    assert load_file("out/face/generator.safetensors")["mapping.w_avg"].dtype == torch.float16
    words = ("debug=tiny", "overwrite=true", f"verify={EXPECTED}")
    fail(capsys, 1, f"source={SNAPSHOT}", *words)
    assert Path("out/face/card.md").is_file()


@pytest.mark.parametrize("kind", ["cat", "eg3d"])
def test_other_sizes_label_sets_and_families_are_verified(capsys, kind):
    generator = randomize(Generator(CAT_CONFIG), seed=3) if kind == "cat" else make_generator()
    state = published_state(generator)
    write_snapshot(Path("x.pkl"), G_ema=make_network(generator, state))
    expected = write_expected(Path("x.safetensors"), generator, state)
    convert("source=x.pkl", f"verify={expected}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "verified: yes"
    assert load_generator("out/face").config == generator.config
    names = {line.split()[0] for line in lines}
    assert ("semantic" in names) == (kind == "cat")


def test_the_last_trained_generator_can_be_chosen(capsys):
    convert(f"source={SNAPSHOT}", "network=G")
    assert "mapped from G: 254" in capsys.readouterr().out
    line = refuse(capsys, f"source={SNAPSHOT}", "network=D", "overwrite=true")
    assert "network=D; use G_ema or G" in line
    words = ("network=G", "overwrite=true", f"verify={EXPECTED}")
    assert "compares G_ema" in refuse(capsys, f"source={SNAPSHOT}", *words)


def test_hostile_and_wrong_files_end_in_one_line_and_leave_nothing(capsys):
    class Hostile:
        def __reduce__(self):
            return print, ("executed",)

    Path("x.pkl").write_bytes(pickle.dumps({"G_ema": Hostile()}))
    assert "it refers to 'builtins.print'" in refuse(capsys, "source=x.pkl")
    Path("y.pkl").write_bytes(SNAPSHOT.read_bytes()[:100_000])
    assert "cut short" in refuse(capsys, "source=y.pkl")
    assert "snapshot none.pkl is not found" in refuse(capsys, "source=none.pkl")
    assert "expected values not found" in refuse(capsys, f"source={SNAPSHOT}", "verify=none")
    assert "dtype=int8; use float32" in refuse(capsys, f"source={SNAPSHOT}", "dtype=int8")
    assert not Path("out").exists()


def test_strict_conversion_refuses_unexpected_tensors_and_the_other_lists_them(capsys):
    generator = make_generator()
    state = published_state(generator) | {"backbone.extra.weight": torch.zeros(2)}
    write_snapshot(Path("x.pkl"), G_ema=make_network(generator, state))
    line = refuse(capsys, "source=x.pkl")
    assert "unexpected tensors backbone.extra.weight" in line and "strict=false" in line
    assert not Path("out").exists()
    convert("source=x.pkl", "strict=false")
    assert "our generator has no such tensor" in capsys.readouterr().out
    assert "backbone.extra.weight" in Path("out/face/card.md").read_text()


def test_what_is_there_is_not_replaced_unasked(capsys):
    convert(f"source={SNAPSHOT}")
    line = refuse(capsys, f"source={SNAPSHOT}")
    assert "output=out/face holds a checkpoint; say overwrite=true" in line
    convert(f"source={SNAPSHOT}", "overwrite=true")
    Path("out/face/notes.txt").write_text("mine")
    line = refuse(capsys, f"source={SNAPSHOT}", "overwrite=true")
    assert "also holds notes.txt" in line and Path("out/face/notes.txt").is_file()
    Path("a_file").touch()
    assert "is a file" in refuse(capsys, f"source={SNAPSHOT}", "output=a_file")
    assert "cannot write" in refuse(capsys, f"source={SNAPSHOT}", "output=a_file/below")
