"""The conversion script: folder, report and exit codes."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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


def test_the_developers_snapshot_is_converted(capsys):
    convert(f"source={SNAPSHOT}", "paths.run_folder=run")
    lines = capsys.readouterr().out.splitlines()
    assert "mapped from G_ema: 254 tensors" in lines
    assert any(line.split()[:2] == ["D_semantic", "65"] for line in lines)
    names = {path.name for path in Path("out/face").iterdir()}
    assert names == {"card.md", "config.yaml", "generator.safetensors"}
    generator = load_generator("out/face")
    expected = load_file(EXPECTED)
    ws = generator.map(expected["in.z"], expected["in.c_cond"], truncation_psi=0.7)
    image = generator.synthesize(ws, expected["in.c"]).image
    torch.testing.assert_close(image, expected["image"], atol=1e-4, rtol=1e-4)
    sha256 = "d55f24c4f8548e520482da19ec1133cfbc686f863a2c8fdb46dc930b8a6be39e"
    assert sha256 in Path("out/face/card.md").read_text()


def test_half_precision_is_smaller():
    convert(f"source={SNAPSHOT}", "debug=tiny")
    size = Path("out/face/generator.safetensors").stat().st_size
    assert size < 0.6 * SNAPSHOT.stat().st_size / 2
    assert load_file("out/face/generator.safetensors")["mapping.w_avg"].dtype == torch.float16


@pytest.mark.parametrize("kind", ["cat", "eg3d"])
def test_other_sizes_label_sets_and_families_are_converted(capsys, kind):
    generator = randomize(Generator(CAT_CONFIG), seed=3) if kind == "cat" else make_generator()
    state = published_state(generator)
    # The lineage's narrow super-resolution carries a filter that it does not use.
    state["superresolution.resample_filter"] = torch.ones(4, 4)
    write_snapshot(Path("x.pkl"), G_ema=make_network(generator, state))
    convert("source=x.pkl")
    lines = capsys.readouterr().out.splitlines()
    assert any("superresolution.resample_filter" in line for line in lines)
    found = load_generator("out/face")
    assert found.config == generator.config
    converted = found.state_dict()
    assert all(torch.equal(converted[k], v) for k, v in generator.state_dict().items())


def test_the_last_trained_generator_can_be_chosen_and_replaces_only_what_is_said(capsys):
    convert(f"source={SNAPSHOT}", "network=G")
    assert "mapped from G: 254" in capsys.readouterr().out
    line = refuse(capsys, f"source={SNAPSHOT}")
    assert "output=out/face holds a checkpoint; set overwrite=true" in line
    line = refuse(capsys, f"source={SNAPSHOT}", "network=D", "overwrite=true")
    assert "network=D; use one of: G_ema, G" in line
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
        ([f"source={SNAPSHOT}", "precision=int8"], "precision=int8; use one of: fp32"),
        ([f"source={SNAPSHOT}", "output=a_file"], "is a file"),
        ([f"source={SNAPSHOT}", "output=a_file/below"], "cannot write"),
    ):
        assert message in refuse(capsys, *words)
    assert not Path("out").exists()
