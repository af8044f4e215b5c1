"""The conversion script: folder, report, verification and exit codes."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator
from mate3d.generator import Generator
from mate3d.published.networks import read_networks
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
    convert(f"source={SNAPSHOT}", f"verify={EXPECTED}", "paths.run_folder=run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "verified: yes"
    assert "mapped from G_ema: 254 tensors" in lines
    assert any(line.split()[:2] == ["D_semantic", "65"] for line in lines)
    errors = {line.split()[0]: float(line.split()[1]) for line in lines if "1e-04" in line}
    rendered = {"image", "image_raw", "image_depth", "semantic", "semantic_raw"}
    assert set(errors) == rendered | {"ws", "D", "Ds"} and max(errors.values()) < 1e-5
    names = {path.name for path in Path("out/face").iterdir()}
    assert names == {"card.md", "config.yaml", "generator.safetensors"}
    generator = load_generator("out/face")
    expected = load_file(EXPECTED)
    ws = generator.map(expected["in.z"], expected["in.c_cond"], truncation_psi=0.7)
    image = generator.synthesize(ws, expected["in.c"]).image
    torch.testing.assert_close(image, expected["image"], atol=1e-4, rtol=1e-4)
    sha256 = "d55f24c4f8548e520482da19ec1133cfbc686f863a2c8fdb46dc930b8a6be39e"
    assert sha256 in Path("out/face/card.md").read_text()
    picture = np.asarray(Image.open("run/verification.png")).astype(int)
    left, middle, right = np.split(picture, 3, axis=1)
    assert np.abs(left - middle).max() <= 1 and left.std() > 20
    assert np.abs(right - 128).max() <= 2
    assert Path("run/log.txt").read_text().rstrip().endswith("verified: yes")


def test_failed_verification_exits_with_1_and_writes_no_folder(capsys):
    tensors = load_file(EXPECTED)
    tensors["image"][0, 0, 0, 0] += 3e-4 * tensors["image"].abs().max()
    with safe_open(EXPECTED, "pt") as file:
        save_file(tensors, "wrong.safetensors", file.metadata())
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
    # The lineage's narrow super-resolution carries a filter that it does not use.
    state["superresolution.resample_filter"] = torch.ones(4, 4)
    path = write_snapshot(Path("x.pkl"), G_ema=make_network(generator, state))
    # Snapshots list a module's tensors before its children's.
    state = {name: state[name] for name in read_networks(path)["G_ema"].state}
    convert("source=x.pkl", f"verify={write_expected(Path('x.safetensors'), generator, state)}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "verified: yes"
    assert any("superresolution.resample_filter" in line for line in lines)
    found = load_generator("out/face")
    assert found.config == generator.config
    converted = found.state_dict()
    assert all(torch.equal(converted[k], v) for k, v in generator.state_dict().items())
    assert any(line.startswith("semantic ") for line in lines) == (kind == "cat")


def test_the_last_trained_generator_can_be_chosen_and_replaces_only_what_is_said(capsys):
    convert(f"source={SNAPSHOT}", "network=G")
    assert "mapped from G: 254" in capsys.readouterr().out
    line = refuse(capsys, f"source={SNAPSHOT}")
    assert "output=out/face holds a checkpoint; set overwrite=true" in line
    line = refuse(capsys, f"source={SNAPSHOT}", "network=D", "overwrite=true")
    assert "network=D; use one of: G_ema, G" in line
    words = ("network=G", "overwrite=true", f"verify={EXPECTED}")
    assert "compares G_ema" in refuse(capsys, f"source={SNAPSHOT}", *words)
    convert(f"source={SNAPSHOT}", "overwrite=true")
    Path("out/face/notes.txt").write_text("mine")
    line = refuse(capsys, f"source={SNAPSHOT}", "overwrite=true")
    assert "also holds notes.txt" in line and Path("out/face/notes.txt").is_file()


def test_hostile_and_wrong_files_end_in_one_line_and_leave_nothing(capsys):
    Path("x.pkl").write_bytes(pickle.dumps({"G_ema": print}))
    Path("a_file").touch()
    write_snapshot(Path("z.pkl"), G_ema=make_network(make_generator(), {}))
    for words, message in (
        (["source=x.pkl"], "it refers to 'builtins.print'"),
        (["source=z.pkl"], "has no tensor"),
        (["source=none.pkl"], "snapshot none.pkl not found"),
        ([f"source={SNAPSHOT}", "verify=none"], "expected values none cannot be read"),
        ([f"source={SNAPSHOT}", "precision=int8"], "precision=int8; use one of: fp32"),
        ([f"source={SNAPSHOT}", "output=a_file"], "is a file"),
        ([f"source={SNAPSHOT}", "output=a_file/below"], "cannot write"),
    ):
        assert message in refuse(capsys, *words)
    assert not Path("out").exists()
