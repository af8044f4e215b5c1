"""Write snapshots in the published pickle structure (spec 9.2).

The objects pickle as those of the releases do: networks as calls that carry their source, some
parts as instances of classes to import. The sources raise if anything runs them.
"""

import dataclasses
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mate3d.cameras import CameraRig
from mate3d.errors import UserError
from mate3d.generator import Generator, GeneratorConfig
from mate3d.published.configs import infer_generator
from mate3d.published.networks import PublishedNetwork, read_networks
from tests.golden import FACE_CONFIG

SOURCE = "raise RuntimeError('embedded source must not run')\n"
_BUFFERS = ("resample_filter", "noise_const", "w_avg", "sigmoid_beta")
_LEGACY_AXES = ((0, 1, 2), (0, 2, 1), (2, 0, 1))

# Six labels, and no size that the developers' snapshot has.
CAT_CONFIG = dataclasses.replace(
    FACE_CONFIG,
    label_set="catmask_hq",
    z_dim=16,
    w_dim=20,
    mapping_layers=3,
    plane_resolution=16,
    channel_base=256,
    channel_max=20,
    sr_channels=(12, 6),
    beta=0.1,
    camera_rig=CameraRig(target=(0.0, 0.0, -0.06)),
    rendering=dataclasses.replace(FACE_CONFIG.rendering, near=2.2, num_fine_samples=9),
)


def _reconstruct_persistent_obj(meta):
    raise AssertionError("nothing of a snapshot may run")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Carrier:
    """An object that carries its source."""

    def __init__(self, class_name: str, attributes: dict[str, Any]):
        self.class_name, self.attributes = class_name, attributes

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": SOURCE}
        meta |= {"class_name": self.class_name, "state": self.attributes}
        return _reconstruct_persistent_obj, (meta,)


def _make_class(module: str, name: str, base: type = object) -> type:
    return type(name, (base,), {"__module__": module, "__qualname__": name})


CLASSES = {
    name: _make_class(module, name)
    for module, name in (
        ("training.triplane", "OSGDecoder"),
        ("training.volumetric_rendering.renderer", "ImportanceRenderer"),
        ("training.volumetric_rendering.ray_sampler", "RaySampler"),
    )
}
EasyDict = _make_class("dnnlib.util", "EasyDict", dict)


@contextmanager
def official_modules() -> Iterator[None]:
    """Let the pickler find the releases' names; they are gone afterwards."""
    named = [_reconstruct_persistent_obj, EasyDict, *CLASSES.values()]
    names = [item.__module__ for item in named] + ["dnnlib"]
    made = {name: types.ModuleType(name) for name in names}
    for item in named:
        setattr(made[item.__module__], item.__name__, item)
    assert not set(made) & set(sys.modules)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def _attributes() -> dict[str, Any]:
    """Return the attributes of an empty torch module of the release's time."""
    ordered = ("_parameters", "_buffers", "_backward_hooks", "_modules")
    return {"_non_persistent_buffers_set": set()} | {name: OrderedDict() for name in ordered}


def build_tree(state: dict[str, Tensor], class_name: str, own: dict[str, Any]) -> Carrier:
    """Arrange a published state dict as nested modules.

    Args:
        state: Tensors by published names.
        class_name: Of the whole.
        own: Attributes beside the state by dotted names, e.g. superresolution.input_resolution.
    """
    root = Carrier(class_name, _attributes())
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = _find(root, path)
        group = "_buffers" if last in _BUFFERS else "_parameters"
        value = tensor if group == "_buffers" else nn.Parameter(tensor, requires_grad=False)
        module[group][last] = value
    for name, value in own.items():
        *path, last = name.split(".")
        _find(root, path)[last] = value
    return root


def _find(root: Carrier, path: list[str]) -> dict[str, Any]:
    """Return the attributes of a part, which is made where it is missing."""
    attributes = root.attributes
    for name in path:
        if name not in attributes["_modules"]:
            cls = CLASSES.get({"decoder": "OSGDecoder", "renderer": "ImportanceRenderer"}.get(name))
            part = Carrier("Part", _attributes()) if cls is None else cls()
            if cls is not None:
                part.__dict__.update(_attributes())
            attributes["_modules"][name] = part
        part = attributes["_modules"][name]
        attributes = part.attributes if isinstance(part, Carrier) else part.__dict__
    return attributes


def rendering_kwargs(config: GeneratorConfig) -> dict[str, Any]:
    """Return rendering options as training scripts of the lineage write them."""
    rendering = config.rendering
    return {
        "image_resolution": config.resolution,
        "disparity_space_sampling": False,
        "clamp_mode": "softplus",
        "superresolution_noise_mode": config.sr_noise_mode,
        "c_gen_conditioning_zero": False,
        "c_scale": config.camera_scale,
        "sr_antialias": True,
        "density_reg": 0.25,
        "depth_resolution": rendering.num_coarse_samples,
        "depth_resolution_importance": rendering.num_fine_samples,
        "ray_start": rendering.near,
        "ray_end": rendering.far,
        "box_warp": config.box_size,
        "avg_camera_radius": config.camera_rig.radius,
        "avg_camera_pivot": list(config.camera_rig.target),
    }


def make_network(generator: Generator, state: dict[str, Tensor], **changes: Any) -> Carrier:
    """Return a generator as a release would pickle it.

    Args:
        generator: Its configuration is described.
        state: The tensors, by published names.
        changes: Rendering options to change.
    """
    config = generator.config
    options = rendering_kwargs(config) | changes
    axes = torch.eye(3)[torch.tensor(_LEGACY_AXES)]
    own = {
        "_init_args": (),
        "_init_kwargs": EasyDict(z_dim=config.z_dim, rendering_kwargs=rendering_kwargs(config)),
        "rendering_kwargs": options,
        "neural_rendering_resolution": config.neural_rendering_resolution,
        "renderer.plane_axes": axes,
        "superresolution.input_resolution": config.sr_input_resolution,
        "backbone.mapping.fc0.bias_gain": np.float64(config.mapping_lr_multiplier),
    }
    return build_tree(state, "TriPlaneGenerator", own)


_OUR_NAMES = (
    ("mapping.layers.", "backbone.mapping.fc"),
    ("mapping.", "backbone.mapping."),
    ("backbone.blocks.", "backbone.synthesis."),
    (".to_image.texture.", ".torgb_tex."),
    (".to_image.shape.", ".torgb_shp."),
    (".to_image.planes.", ".torgb."),
    (".to_image.image.", ".torgb."),
    ("segmentation_superresolution.", "superresolution_semantic."),
    (".blocks.", ".block"),
    ("decoder.beta", "decoder.sigmoid_beta"),
    ("decoder.color_head.", "decoder.net_tex."),
    ("decoder.sdf_head.", "decoder.net_main_shp."),
    ("decoder.class_heads.", "decoder.net_main_shp_bbbb_"),
    ("decoder.density_head.", "decoder.net."),
)


def published_state(generator: Generator) -> dict[str, Tensor]:
    """Return a generator's tensors under published names."""
    state = {}
    for name, tensor in generator.state_dict().items():
        for ours, theirs in _OUR_NAMES:
            is_start = not ours.startswith(".")
            if name.startswith(ours) if is_start else ours in name:
                name = name.replace(ours, theirs, 1)
                if is_start and not ours.startswith(("backbone", "segmentation")):
                    break
        state[name] = tensor.clone()
    return state


def write_snapshot(path: Path, protocol: int = 4, **entries: Any) -> Path:
    """Write entries such as G_ema=... as a snapshot."""
    with official_modules(), path.open("wb") as file:
        pickle.dump({"training_set_kwargs": EasyDict(path="x"), **entries}, file, protocol)
    return path


def read_back(path: Path, generator: Generator, **changes: Any) -> PublishedNetwork:
    """Write a generator as a release would, with other rendering options, and read it."""
    network = make_network(generator, published_state(generator), **changes)
    return read_networks(write_snapshot(path, G_ema=network))["G_ema"]


def generator_config(network: PublishedNetwork) -> GeneratorConfig:
    """Return the configuration of a published generator that has no problems."""
    inferred = infer_generator(network)
    if inferred.problems:
        raise UserError("; ".join(inferred.problems))
    return inferred.config


def randomize(generator: Generator, seed: int) -> Generator:
    """Give every parameter and noise of a generator another value; none is zero."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in generator.state_dict().items():
            if not name.endswith(("resample_filter", "beta")):
                scale = 0.1 if name.endswith(("bias", "noise_strength", "w_avg")) else 1.0
                tensor.copy_(scale * torch.randn(tensor.shape, generator=draws))
                if name.endswith("affine.bias"):
                    tensor.add_(1)
    return generator.eval().requires_grad_(False)
