"""Stable Diffusion and the authors' ControlNets come into the cache, and load without network."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from huggingface_hub import constants
from safetensors.torch import load_file

from mate3d.checkpoints.assets import named_asset
from scripts.download_weights import main
from tests.hub_server import HubServer, use_hub

SD, AUTHORS = "stable-diffusion-v1-5/stable-diffusion-v1-5", "Ellis/MaTe3D"
PRIOR = named_asset("demo_prior")
CONTROLNET = PRIOR / "controlnet" / "diffusion_pytorch_model.safetensors"
UNET = PRIOR / "unet" / "diffusion_pytorch_model.safetensors"
FACE = "face_controlnet/checkpoint-10000/controlnet"
FOLDERS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
# What is needed of Stable Diffusion.
SD_FILES = {
    "model_index.json",
    *(
        f"{folder}/{path.name.replace('.safetensors', '.fp16.safetensors')}"
        for folder in FOLDERS
        for path in (PRIOR / folder).iterdir()
    ),
}


def stable_diffusion_files() -> dict[str, bytes]:
    """Return the demo prior in the layout of Stable Diffusion 1.5, among files not to be taken."""
    files = {"README.md": b"# SD", "v1-inference.yaml": b"1", "v1-5-pruned.safetensors": b"1"}
    files["v1-5-pruned-emaonly.ckpt"] = b"1"
    index = json.loads((PRIOR / "model_index.json").read_bytes())
    index |= {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    index.pop("controlnet", None)
    files["model_index.json"] = json.dumps(index).encode()
    files["feature_extractor/preprocessor_config.json"] = b"{}"
    files["safety_checker/config.json"] = b"{}"
    files["safety_checker/model.fp16.safetensors"] = b"1"
    for part in FOLDERS:
        for path in (PRIOR / part).iterdir():
            name, content = f"{part}/{path.name}", path.read_bytes()
            if path.suffix != ".safetensors":
                files[name] = content
                continue
            stem = name.removesuffix(".safetensors")
            files[f"{stem}.fp16.safetensors"] = content
            others = ("safetensors", "non_ema.safetensors", "fp16.bin", "bin", "msgpack", "onnx")
            files |= {f"{stem}.{other}": b"1" for other in others}
    return files


def authors_files() -> dict[str, bytes]:
    """Return one ControlNet in the folder of a training, and one as an older file format."""
    config, pickled = CONTROLNET.with_name("config.json").read_bytes(), io.BytesIO()
    torch.save(load_file(CONTROLNET), pickled)
    return {
        "README.md": b"# MaTe3D",
        "face.pkl": b"1",
        f"{FACE}/config.json": config,
        f"{FACE}/{CONTROLNET.name}": CONTROLNET.read_bytes(),
        "face_controlnet/checkpoint-10000/optimizer.bin": b"1",
        "face_controlnet/checkpoint-10000/random_states_0.pkl": b"1",
        "cat_controlnet/config.json": config,
        "cat_controlnet/diffusion_pytorch_model.bin": pickled.getvalue(),
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer().running() as server:
        use_hub(server, tmp_path / "cache", monkeypatch)
        monkeypatch.chdir(tmp_path)
        server.add(SD, stable_diffusion_files(), license="creativeml-openrail-m")
        server.add(AUTHORS, authors_files(), license="cc-by-nc-4.0")
        yield server


def words(*options: str) -> list[str]:
    return ["paths.run_folder=run", *options]


def fails(capsys: pytest.CaptureFixture, *options: str) -> str:
    """Run the script, which must end with code 2 and one line; return the line."""
    with pytest.raises(SystemExit) as stopped:
        main(words(*options))
    assert stopped.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def listed_files(text: str) -> set[str]:
    lines = [line.split() for line in text.splitlines() if line.startswith("file ")]
    return {line[1].rstrip(",") for line in lines}


@pytest.mark.parametrize(
    ("what", "controlnet"),
    [
        ("mate3d_face", {f"{FACE}/config.json", f"{FACE}/{CONTROLNET.name}"}),
        (
            "mate3d_cat",
            {"cat_controlnet/config.json", "cat_controlnet/diffusion_pytorch_model.bin"},
        ),
        ("stable_diffusion_1_5", set()),
    ],
)
def test_listing_shows_the_needed_files_with_licences_and_their_size(hub, capsys, what, controlnet):
    main(words(f"what={what}", "list=true"))
    text = capsys.readouterr().out
    assert listed_files(text) == SD_FILES | controlnet
    assert "creativeml-openrail-m" in text and ("cc-by-nc-4.0" in text) == bool(controlnet)
    files = stable_diffusion_files() | authors_files()
    size = sum(len(files[name]) for name in SD_FILES | controlnet) / 1e6
    assert f"total     {size:.1f} MB, of which {size:.1f} MB are to be downloaded" in text
    assert not hub.downloads() and not Path("cache").exists()


@pytest.mark.parametrize("what", ["mate3d_face", "mate3d_cat"])
def test_downloaded_prior_loads_by_hub_id_without_network(hub, monkeypatch, what):
    main(words(f"what={what}"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    num_requests = len(hub.requests)
    folder = FACE if what == "mate3d_face" else "cat_controlnet"
    controlnet = ControlNetModel.from_pretrained(AUTHORS, subfolder=folder)
    parts = {"safety_checker": None, "feature_extractor": None, "controlnet": controlnet}
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(SD, variant="fp16", **parts)
    assert len(hub.requests) == num_requests
    for network, path in ((pipeline.controlnet, CONTROLNET), (pipeline.unet, UNET)):
        state = network.state_dict()
        for name, value in load_file(path).items():
            torch.testing.assert_close(state[name], value.float())


def test_second_download_only_verifies_even_after_another_commit(hub, capsys):
    main(words("what=mate3d_face"))
    num_downloads = len(hub.downloads())
    files = stable_diffusion_files() | {"README.md": b"# A better text"}
    commit = hub.repositories[SD].commit(files)
    capsys.readouterr()
    main(words("what=mate3d_face"))
    assert "of which 0 bytes are to be downloaded" in capsys.readouterr().out
    assert len(hub.downloads()) == num_downloads
    (folder,) = Path("cache/hub").glob(f"models--stable*/snapshots/{commit}")
    assert (folder / "unet/diffusion_pytorch_model.fp16.safetensors").exists()


def test_interrupted_file_is_continued_in_the_cache(hub):
    content = UNET.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    blobs = Path("cache/hub/models--stable-diffusion-v1-5--stable-diffusion-v1-5/blobs")
    blobs.mkdir(parents=True)
    (blobs / f"{sha256}.{sha256[:12]}.incomplete").write_bytes(content[:1_000_000])
    main(words("what=stable_diffusion_1_5"))
    assert (blobs / sha256).read_bytes() == content
    assert [r.range for r in hub.downloads() if r.range] == ["bytes=1000000-"]


def test_snapshots_are_found_without_the_state_of_a_training(hub, capsys):
    main(words("output=weights"))
    assert [path.name for path in Path("weights").rglob("*.pkl")] == ["face.pkl"]


def test_no_room_is_said_before_anything_is_downloaded(hub, capsys, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "has 1.0 MB free" in fails(capsys, "what=mate3d_face")
    assert not hub.downloads()


def test_mistakes_and_gaps_are_one_line_each(hub, capsys, monkeypatch):
    assert "files=[face.pkl]; leave it out" in fails(capsys, "what=mate3d_face", "files=face.pkl")
    assert "revision=v1; leave it out" in fails(capsys, "what=mate3d_face", "revision=v1")
    assert "what=mate3d_dog" in fails(capsys, "what=mate3d_dog")
    hub.repositories[AUTHORS].commit({"face.pkl": b"1"})
    line = fails(capsys, "what=mate3d_cat")
    assert f"{AUTHORS} has no weights in diffusers' format; its files are face.pkl" in line
    del hub.repositories[SD]
    assert f"no public model {SD}" in fails(capsys, "what=stable_diffusion_1_5")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    line = fails(capsys, "what=stable_diffusion_1_5")
    assert f"no connection to http://127.0.0.1:9/{SD}" in line
