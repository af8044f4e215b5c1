"""Priors load from wherever they are, in the wanted precision; wrong ones are named in one line."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from mate3d.diffusion.loading import load_prior
from mate3d.diffusion.networks import PriorNetworks
from mate3d.errors import UserError
from tests.hub_server import HubServer, use_hub
from tests.mate3d.diffusion.original_format import DEMO, original_tensors
from training.prior.models import load_base


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    """A copy of the demo prior."""
    return shutil.copytree(DEMO, tmp_path / "sd")


@pytest.fixture(scope="module")
def own() -> PriorNetworks:
    """The demo prior."""
    return load("demo_prior")


def load(prior: str | Path, controlnet: str | Path | None = None, **options):
    return load_prior(str(prior), controlnet and str(controlnet), **options)


def refused(*arguments, **options) -> str:
    """Return the one line with which loading ends."""
    with pytest.raises(UserError) as info:
        load(*arguments, **options)
    message = str(info.value)
    assert "\n" not in message and len(message) < 600
    return message


def edit_json(path: Path, **changes: object) -> None:
    """Change a JSON file; None removes a key."""
    content = json.loads(path.read_text()) | changes
    kept = {name: value for name, value in content.items() if value is not None}
    path.write_text(json.dumps(kept))


def edit_tensors(path: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def weights(folder: Path) -> Path:
    [path] = folder.glob("*.safetensors")
    return path


def equal(one: nn.Module, other: nn.Module) -> bool:
    mine, yours = one.state_dict(), other.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[key], yours[key]) for key in mine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_have_the_tensors_of_their_files_in_the_wanted_precision(dtype, capfd, caplog):
    networks = load("demo_prior", dtype=dtype)
    assert set(networks.modules()) == {"vae", "text_encoder", "unet", "controlnet"}
    for name, network in networks.modules().items():
        stored = load_file(weights(DEMO / name))
        assert network.state_dict().keys() == stored.keys()
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, stored[key].to(dtype)), key
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")


def test_variants_are_found_or_chosen(prior):
    for path in prior.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    load(prior)
    path = weights(prior / "unet")
    other = shutil.copy(path, str(path).replace("fp16", "ema"))
    edit_tensors(Path(other), lambda tensors: tensors["conv_out.bias"].fill_(7))
    assert not (load(prior).unet.conv_out.bias == 7).any()
    assert (load(prior, variant="ema").unet.conv_out.bias == 7).all()
    path.rename(str(path).replace("fp16", "non_ema"))
    assert "set guidance.variant to one of: ema, non_ema" in refused(prior)
    assert "has no files of guidance.variant=fp17" in refused(prior, variant="fp17")


def test_half_precision_files_are_taken_for_half_precision(prior):
    plain = weights(prior / "unet")
    half = Path(shutil.copy(plain, plain.with_suffix(".fp16.safetensors")))
    edit_tensors(half, lambda tensors: tensors["conv_out.bias"].fill_(7))
    assert (load(prior, dtype=torch.bfloat16).unet.conv_out.bias == 7).all()
    assert not (load(prior).unet.conv_out.bias == 7).any()


def drop_layer(tensors: dict) -> None:
    for name in [name for name in tensors if "layers.2." in name]:
        del tensors[name]


def rename_as_older(tensors: dict) -> None:
    """Give a text encoder the names that another version of its library expects."""
    for name in list(tensors):
        tensors[f"other.{name}"] = tensors.pop(name)


DAMAGES = [
    ("text_encoder", lambda path: edit_tensors(path, drop_layer), "lacks 16 of 52 tensors"),
    ("text_encoder", lambda path: edit_tensors(path, rename_as_older), "lacks 52 of 52 tensors"),
    ("unet", lambda path: edit_tensors(path, lambda t: t.pop("conv_in.bias")), "conv_in.bias"),
    (
        "controlnet",
        lambda path: edit_tensors(path, lambda t: t["conv_in.bias"].fill_(torch.nan)),
        "not finite in conv_in.bias",
    ),
    ("vae", lambda path: path.write_bytes(path.read_bytes()[:-99]), "is damaged"),
    ("unet", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "lfs"),
    ("unet", Path.unlink, "no weights in"),
]


@pytest.mark.parametrize(("part", "damage", "message"), DAMAGES)
def test_damaged_and_incomplete_weights_are_named(prior, part, damage, message):
    path = weights(prior / part)
    damage(path)
    line = refused(prior)
    assert line.startswith(f"guidance.prior={prior}") and message in line
    assert "no weights" in message or str(path) in line


def test_half_precision_too_small_for_the_weights_is_named(prior):
    edit_tensors(
        weights(prior / "vae"), lambda t: t.update({"quant_conv.bias": torch.ones(8) * 1e5})
    )
    assert "not finite in quant_conv.bias (torch.float16)" in refused(prior, dtype=torch.float16)


def inpaint(prior: Path) -> None:
    edit_json(prior / "unet" / "config.json", in_channels=9)
    change = {"conv_in.weight": torch.zeros(64, 9, 3, 3)}
    edit_tensors(weights(prior / "unet"), lambda tensors: tensors.update(change))


def xl(prior: Path) -> None:
    second = ["transformers", "CLIPTextModelWithProjection"]
    name = "StableDiffusionXLPipeline"
    edit_json(prior / "model_index.json", _class_name=name, text_encoder_2=second)


def xl_unet(prior: Path) -> None:
    changes = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16}
    edit_json(prior / "unet" / "config.json", addition_embed_type="text_time", **changes)
    more = {f"add_embedding.linear_{n}.weight": torch.zeros(256, k) for n, k in ((1, 16), (2, 256))}
    more |= {f"add_embedding.linear_{number}.bias": torch.zeros(256) for number in (1, 2)}
    edit_tensors(weights(prior / "unet"), lambda tensors: tensors.update(more))


def narrow_text(prior: Path) -> None:
    config = CLIPTextConfig.from_pretrained(DEMO / "text_encoder")
    config.hidden_size, config.intermediate_size, config.num_attention_heads = 32, 64, 2
    CLIPTextModel(config).save_pretrained(prior / "text_encoder")


KINDS = [
    (inpaint, "9 channels instead of the 4"),
    (xl, "StableDiffusionXLPipeline"),
    (xl_unet, "XL"),
    (narrow_text, "text of width 128, but its text encoder gives 32"),
    (
        lambda p: edit_json(p / "scheduler/scheduler_config.json", prediction_type="sample"),
        "sample",
    ),
    (lambda p: edit_json(p / "unet/config.json", sample_size=[16, 24]), "[16, 24]; only square"),
    (lambda p: edit_json(p / "unet/config.json", sample_size=None), "size None; only square"),
    (lambda p: edit_json(p / "text_encoder/config.json", vocab_size=300), "text_encoder"),
    (
        lambda p: edit_json(p / "model_index.json", unet=None, prior=["a", "B"]),
        "ControlNetPipeline",
    ),
    (lambda p: edit_json(p / "unet/config.json", _class_name="UNet2DModel"), "UNet2DModel; use"),
    (lambda p: (p / "model_index.json").write_text("{broken"), "not a readable JSON"),
    (lambda p: (p / "vae/config.json").unlink(), "vae/config.json is not a readable JSON"),
    (lambda p: shutil.rmtree(p / "tokenizer"), "its tokenizer or scheduler cannot"),
]


@pytest.mark.parametrize(("change", "message"), KINDS)
def test_models_of_another_kind_are_refused(prior, change, message):
    change(prior)
    line = refused(prior)
    assert line.startswith(f"guidance.prior={prior}") and message in line


def test_training_names_its_own_option(prior):
    inpaint(prior)
    with pytest.raises(UserError, match=f"^prior.base={prior}: its UNet reads 9 channels"):
        load_base(prior)


def test_configurations_may_leave_out_lengths_and_give_sizes_as_pairs(prior):
    edit_json(prior / "tokenizer" / "tokenizer_config.json", model_max_length=None)
    edit_json(prior / "unet" / "config.json", sample_size=[16, 16])
    edit_json(prior / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    networks = load(prior)
    assert networks.tokenizer.model_max_length == 48
    assert networks.unet.config.sample_size == 16
    assert networks.scheduler.config.prediction_type == "v_prediction"


def make_controlnet(**changes) -> ControlNetModel:
    config = dict(ControlNetModel.load_config(DEMO / "controlnet")) | changes
    return ControlNetModel.from_config(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cross_attention_dim": 64}, "another base than the prior: its cross_attention_dim is 64"),
        ({"conditioning_channels": 1}, "pictures of 1 channels"),
        ({"layers_per_block": 2}, "another base than the prior: its layers_per_block is 2"),
    ],
)
def test_controlnets_for_something_else_are_refused(tmp_path, changes, message):
    make_controlnet(**changes).save_pretrained(tmp_path)
    line = refused("demo_prior", tmp_path)
    assert line.startswith(f"guidance.controlnet={tmp_path}") and message in line


def test_a_controlnet_is_found_in_its_folder_if_it_is_the_only_one(own, tmp_path):
    for name in ("face_controlnet/controlnet_10000", "cat_controlnet/controlnet"):
        shutil.copytree(DEMO / "controlnet", tmp_path / name)
    line = refused("demo_prior", tmp_path)
    assert "subfolder to one of: cat_controlnet/controlnet, face_controlnet/controlnet_1" in line
    assert "0 ControlNets in dog" in refused("demo_prior", tmp_path, subfolder="dog")
    for place, subfolder in (
        (tmp_path, "face_controlnet"),
        (tmp_path, "cat_controlnet/controlnet/"),
        (tmp_path / "face_controlnet", "face_controlnet"),
        # This is one, so there is nothing to look for.
        (tmp_path / "cat_controlnet" / "controlnet", "cat_controlnet"),
    ):
        # As in a clone of a repository.
        (place / ".git").mkdir(exist_ok=True)
        networks = load("demo_prior", place, subfolder=subfolder)
        assert equal(networks.controlnet, own.controlnet)
    assert "not a ControlNet" in refused("demo_prior", "tests")
    assert "class AutoencoderKL; use ControlNetModel" in refused("demo_prior", DEMO / "vae")


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("tests", "no model_index.json"),
        ("nowhere", "guidance.prior not found: nowhere.*: demo_prior"),
        ("RUN", "no model_index.json.*; use .*run.model$"),
    ],
)
def test_wrong_locations_are_named(tmp_path, prior, message):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "model_index.json").touch()
    with pytest.raises(UserError, match=message):
        load(prior.replace("RUN", str(tmp_path / "run")))


def test_another_autoencoder_takes_the_place_of_the_own_one(tmp_path):
    sizes = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    blocks = {"num_encoder_blocks": (1,) * 3, "num_decoder_blocks": (1,) * 3}
    tiny = AutoencoderTiny(**sizes, **blocks)
    tiny.save_pretrained(tmp_path / "tiny")
    assert equal(load("demo_prior", vae=str(tmp_path / "tiny")).vae, tiny)
    config = dict(AutoencoderKL.load_config(DEMO / "vae"))
    for changes, message in (
        ({"scaling_factor": 0.13025}, "scaling_factor 0.13025, the prior's own 0.66"),
        ({"latent_channels": 16}, "latent_channels 16, the prior's own 4"),
    ):
        AutoencoderKL.from_config(config | changes).save_pretrained(tmp_path / "other")
        line = refused("demo_prior", vae=str(tmp_path / "other"))
        assert line.startswith("guidance.vae=") and message in line


@pytest.fixture
def single_folder(tmp_path: Path) -> Path:
    """The demo prior's configuration, without weights."""
    ignore = shutil.ignore_patterns("*.safetensors")
    return shutil.copytree(DEMO, tmp_path / "single", ignore=ignore)


def test_single_files_of_the_original_format_are_the_same_networks(own, single_folder):
    tensors = original_tensors()
    save_file(tensors, single_folder / "a.safetensors")
    torch.save({"state_dict": tensors}, single_folder / "b.ckpt")
    for name in ("a.safetensors", "b.ckpt"):
        networks = load(single_folder / name, DEMO)
        assert all(equal(net, own.modules()[name]) for name, net in networks.modules().items())
        assert networks.scheduler.config.beta_end == own.scheduler.config.beta_end
        assert networks.tokenizer("a cat") == own.tokenizer("a cat")
    half = load(single_folder / "a.safetensors", dtype=torch.bfloat16)
    assert {each.dtype for each in half.modules().values()} == {torch.bfloat16}
    file = single_folder / "controlnet" / "c.safetensors"
    shutil.copy(weights(DEMO / "controlnet"), file)
    assert equal(load("demo_prior", file).controlnet, own.controlnet)


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_single_files_that_cannot_be_used_are_named(single_folder, tmp_path, capsys, monkeypatch):
    tensors = original_tensors()
    torch.save({"state_dict": tensors, "hooks": Hostile()}, single_folder / "a.ckpt")
    assert "cannot be loaded" in refused(single_folder / "a.ckpt")
    assert "executed" not in capsys.readouterr().out
    path = single_folder / "a.safetensors"
    save_file({name: each for name, each in tensors.items() if "layers.2." not in name}, path)
    assert "incomplete: some tensors are missing" in refused(path)
    save_file({name: each for name, each in tensors.items() if "middle_block.1" not in name}, path)
    assert "incomplete: some tensors are missing" in refused(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "is damaged" in refused(path)
    save_file(tensors, tmp_path / "alone.safetensors")
    lose_network(monkeypatch)
    line = refused(tmp_path / "alone.safetensors")
    assert "(without its model_index.json beside it) cannot be loaded: " in line


def lose_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on this port.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def repository(folder: Path, prefix: str = "") -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {prefix + path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_hub_repositories_load_and_then_need_no_network(own, tmp_path, monkeypatch, caplog):
    files = repository(DEMO)
    files = {name: content for name, content in files.items() if "controlnet" not in name}
    unet = "unet/diffusion_pytorch_model"
    files[f"{unet}.non_ema.safetensors"] = files[f"{unet}.safetensors"]
    files["sd.ckpt"] = b"not needed either"
    others = repository(DEMO / "controlnet", "face_controlnet/controlnet_10000/")
    others |= repository(DEMO / "controlnet", "cat_controlnet/controlnet/")
    with HubServer().running() as server:
        use_hub(server, tmp_path / "cache", monkeypatch)
        server.add("owner/sd", files)
        server.add("authors/mate3d", others)
        assert "set guidance.controlnet_subfolder to one of" in refused(
            "owner/sd", "authors/mate3d"
        )
        for _ in range(2):
            networks = load("owner/sd", "authors/mate3d", subfolder="cat_controlnet")
            assert all(equal(net, own.modules()[n]) for n, net in networks.modules().items())
        # Three networks and one ControlNet, once.
        assert len(server.downloads()) == 4
        load("owner/sd", variant="non_ema")
        assert any("non_ema" in request.path for request in server.requests)
        for arguments, message in (
            (("owner/nothing",), "guidance.prior=owner/nothing: the hub has no public model"),
            (("owner/sd", "a/b"), "guidance.controlnet=a/b: the hub has no public model a/b"),
        ):
            assert refused(*arguments).startswith(message)
    lose_network(monkeypatch)
    networks = load("owner/sd", "authors/mate3d", subfolder="cat_controlnet")
    assert all(equal(net, own.modules()[name]) for name, net in networks.modules().items())
    assert "guidance.prior=owner/sd is taken from the cache: no connection" in caplog.text
    started = time.monotonic()
    line = refused("owner/other")
    assert line.startswith("guidance.prior=owner/other: ") and "check the network" in line
    assert "scripts.download_weights" in line
    assert refused("owner/sd", "authors/other").startswith("guidance.controlnet=authors/other: ")
    assert time.monotonic() - started < 10
