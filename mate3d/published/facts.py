"""Single facts about a published generator, looked up in tensors, attributes and options."""

import math
import re
from typing import Any, Literal

from torch import Tensor

from mate3d.cameras import CAMERA_DIM, DEFAULT_FOCAL, DEFAULT_RADIUS, CameraRig
from mate3d.errors import UserError
from mate3d.generator import GeneratorConfig
from mate3d.published.layers import find_clamp, layer_problems
from mate3d.published.networks import PublishedNetwork
from mate3d.published.pickle_machine import shown
from mate3d.published.plain_values import is_number, plain_numbers
from mate3d.rendering.renderer import RenderingConfig
from mate3d.rendering.triplane import PlaneLayout, find_plane_layout

LABEL_SETS = {19: "celebamask_hq", 6: "catmask_hq", 0: "unlabelled"}
_DEFAULT_CHANNELS = (32768, 512)
_SR_CLAMP = 256.0
_MAX_MAPPING_LAYERS = 64
# Options that act in training only, or say what tensor shapes say too.
_WITHOUT_EFFECT = re.compile(
    r"image_resolution|superresolution_module(_semantic)?|gpc_reg_.*|gen_pose_cond|density_reg.*"
    r"|reg_type|decoder_output_dim"
)


class GeneratorFacts:
    """Looks facts up in a network's tensors, attributes and rendering options."""

    def __init__(self, network: PublishedNetwork):
        self.network, self.state = network, network.state
        # The attribute may have been edited after construction, so it wins.
        options = network.attributes.get("rendering_kwargs")
        if not isinstance(options, dict):
            options = network.init_kwargs.get("rendering_kwargs")
        if not isinstance(options, dict):
            raise UserError(f"{network.class_name} has no rendering_kwargs; it is no generator")
        self.options: dict[str, Any] = options
        self.used: set[str] = set()
        self.problems: list[str] = []
        self.notes: list[str] = []

    def size(self, name: str, dimension: int) -> int:
        """Return one side of a tensor that must be there."""
        tensor = self.state.get(name)
        if tensor is None or tensor.ndim <= dimension or tensor.numel() == 0:
            raise UserError(
                f"{self.network.class_name} has no tensor {name} as generators of MaTe3D and"
                " EG3D have"
            )
        return tensor.shape[dimension]

    def count(self, pattern: str) -> int:
        """Return how many tensors have such a name."""
        return sum(re.fullmatch(pattern, name) is not None for name in self.state)

    def attribute(self, name: str, default: float) -> float:
        """Return a number above 0 among the attributes."""
        value = plain_numbers(self.network.attributes.get(name, default))
        if is_number(value) and value > 0:
            return value
        self.problems.append(f"{name} is {shown(value)}; {default:g} is assumed")
        return default

    def option(self, name: str, default: Any = None) -> Any:
        """Return a rendering option."""
        self.used.add(name)
        return plain_numbers(self.options.get(name, default))

    def number(self, name: str, *, above: float = -math.inf) -> float:
        """Return a rendering option that must be a number."""
        value = self.option(name)
        if not is_number(value) or not value > above:
            limit = "" if above == -math.inf else f" above {above:g}"
            raise UserError(f"rendering option {name} is {shown(value)}; a number{limit} is known")
        return float(value)

    def samples(self, name: str, least: int) -> int:
        """Return a rendering option that is a number of samples."""
        value = self.option(name)
        if type(value) is not int or not least <= value <= 4096:
            raise UserError(f"rendering option {name} is {shown(value)}; {least} to 4096 is known")
        return value

    def mapping_layers(self) -> int:
        """Return the number of layers behind the camera's embedding."""
        number = self.count(r"backbone\.mapping\.fc\d+\.weight")
        if number > _MAX_MAPPING_LAYERS:
            raise UserError(f"the mapping has {number} layers; {_MAX_MAPPING_LAYERS} at most")
        return number

    def z_dim(self, w_dim: int) -> int:
        """Return the latent's width: what the first layer takes beside the embedded camera."""
        inputs = self.size("backbone.mapping.fc0.weight", 1)
        if inputs <= w_dim:
            raise UserError(f"the mapping takes {inputs} numbers of which {w_dim} are the camera's")
        return inputs - w_dim

    def resolutions(self) -> list[int]:
        """Return the sides of the backbone's blocks."""
        found = {
            int(match[1])
            for match in (re.match(r"backbone\.synthesis\.b(\d{1,5})\.", n) for n in self.state)
            if match
        }
        if not found or sorted(found) != [4 * 2**i for i in range(len(found))]:
            raise UserError(
                f"{self.network.class_name} has backbone blocks {sorted(found)}; 4, 8, 16, ... are"
                " those of a generator"
            )
        return sorted(found)

    def backbone_channels(self) -> tuple[int, int]:
        """Return (channel_base, channel_max): those given, unless shapes tell otherwise."""
        channels = {
            r: self.size(f"backbone.synthesis.b{r}.conv1.weight", 0) for r in self.resolutions()
        }
        return channel_rule(channels, self.network.init_kwargs, self.network.class_name)

    def plane_channels(self, is_density: bool) -> int:
        """Return a third of the channels of the plane images."""
        name = "torgb" if is_density else "torgb_tex"
        channels = self.size(f"backbone.synthesis.b4.{name}.weight", 0)
        if channels % 3:
            raise UserError(f"the backbone's {name} has {channels} channels; three planes need 3n")
        return channels // 3

    def plane_layout(self) -> PlaneLayout:
        """Read which axes the three planes look at from the constant that the file carries."""
        axes = self.network.attributes.get("renderer.plane_axes")
        if not isinstance(axes, Tensor):
            self.notes.append("no renderer.plane_axes in the file; the lineage's layout is assumed")
            return "eg3d_legacy"
        layout = None
        if axes.shape == (3, 3, 3):
            pairs = [(p[0].argmax().item(), p[1].argmax().item()) for p in axes.float()]
            is_permutation = bool(((axes == 0) | (axes == 1)).all() and (axes.sum(-1) == 1).all())
            layout = find_plane_layout(pairs) if is_permutation else None
        if layout is None:
            raise UserError("renderer.plane_axes of the file are not those of a known plane layout")
        return layout

    def label_set(self, is_density: bool) -> str:
        """Tell the label set by the number of local heads."""
        number = self.count(r"decoder\.net_main_shp_bbbb_\d+\.0\.weight")
        if number not in LABEL_SETS or (number == 0) != is_density:
            raise UserError(
                f"the decoder has {number} local heads; known are 19 (celebamask_hq) and 6"
                " (catmask_hq), and none for EG3D's density decoder"
            )
        return LABEL_SETS[number]

    def beta(self) -> float:
        """Return the sharpness length that the decoder stores."""
        self.size("decoder.sigmoid_beta", 0)
        return self.state["decoder.sigmoid_beta"].flatten()[0].item()

    def camera_scale(self) -> float:
        """Return the factor on the conditioning camera; 0 is no conditioning (spec 4)."""
        if self.size("backbone.mapping.embed.weight", 1) != CAMERA_DIM:
            raise UserError(f"the mapping's conditioning is not a camera of {CAMERA_DIM} numbers")
        scale = self.option("c_scale", 0)
        if not is_number(scale):
            raise UserError(f"rendering option c_scale is {shown(scale)}; a number is known")
        return 0.0 if self.option("c_gen_conditioning_zero") else float(scale)

    def decoder_multiplier(self) -> float:
        """Return the learning-rate multiplier of decoder layers that do not tell it themselves."""
        value = self.option("decoder_lr_mul", 1)
        return value if is_number(value) and value > 0 else 1

    def clamp(self, part: str, default: float | None) -> float | None:
        """Return the limit of activations in a part."""
        value, problems = find_clamp(self.network, part, default)
        self.problems += problems
        return value

    def backbone_clamp(self) -> float | None:
        """Return the limit of the backbone's activations."""
        return self.clamp("backbone.synthesis.", None)

    def sr_clamp(self) -> float | None:
        """Return the limit of the super-resolutions' activations."""
        return self.clamp("superresolution", _SR_CLAMP)

    def neural_rendering_resolution(self) -> int:
        """Return the default side of raw renders."""
        value = self.network.attributes.get("neural_rendering_resolution")
        if type(value) is not int or not 1 <= value <= 4096:
            raise UserError(f"neural_rendering_resolution is {shown(value)}; 1 to 4096 is known")
        return value

    def superresolution(self) -> tuple[int, int, tuple[int, ...]]:
        """Return input side, final side and channels of the super-resolution's blocks."""
        blocks = self.count(r"superresolution\.block\d\.conv1\.weight")
        if blocks == 0:
            raise UserError(f"{self.network.class_name} has no super-resolution blocks")
        names = [f"superresolution.block{index}" for index in range(blocks)]
        sides = [self.size(f"{name}.conv1.noise_const", 0) for name in names]
        start = self.network.attributes.get("superresolution.input_resolution")
        if type(start) is not int or start < 1:
            raise UserError(
                f"superresolution.input_resolution is {shown(start)}; 1 or more is known"
            )
        # Blocks double the side or keep it, and those that keep it come first.
        doubled = [start * 2 ** (i + 1) for i in range(blocks)]
        if not any(sides == [start] * n + doubled[: blocks - n] for n in range(blocks + 1)):
            raise UserError(f"super-resolution from {start} px has blocks of {sides} px")
        channels = tuple(self.size(f"{name}.conv1.weight", 0) for name in names)
        return start, sides[-1], channels

    def sr_noise_mode(self) -> Literal["none", "const", "random"]:
        """Return the noise of the super-resolution."""
        mode = self.option("superresolution_noise_mode", "none")
        if mode not in ("none", "const", "random"):
            raise UserError(
                f"rendering option superresolution_noise_mode is {shown(mode)};"
                " none, const and random are known"
            )
        return mode

    def camera_rig(self) -> CameraRig:
        """Return the cameras that portraits are framed by.

        Snapshots do not store a focal length. The sample script of the lineage turns a field of
        view of 18.837 degrees into 4.2634 by rounded constants; the cameras that the networks were
        trained with have 4.2647, which is used here.
        """
        radius = self.option("avg_camera_radius", DEFAULT_RADIUS)
        pivot = self.option("avg_camera_pivot", [0, 0, 0])
        for name, value in (("avg_camera_radius", radius), ("avg_camera_pivot", pivot)):
            if name not in self.options:
                self.notes.append(f"no {name} in the file; {value} is assumed")
        is_pivot = (
            isinstance(pivot, list | tuple) and len(pivot) == 3 and all(map(is_number, pivot))
        )
        if not is_number(radius) or radius <= 0 or not is_pivot:
            raise UserError(
                f"rendering options avg_camera_radius {shown(radius)} and avg_camera_pivot"
                f" {shown(pivot)} are not a distance and a point"
            )
        return CameraRig(float(radius), tuple(map(float, pivot)), DEFAULT_FOCAL)

    def rendering(self) -> RenderingConfig:
        """Return the renderer's settings; what it cannot do is an error."""
        near, far = self.number("ray_start"), self.number("ray_end")
        if not 0 <= near < far:
            raise UserError(f"rays start at {near:g} and end at {far:g}")
        if self.option("clamp_mode", "softplus") != "softplus":
            self.problems.append(f"clamp_mode {shown(self.option('clamp_mode'))} is not softplus")
        for name in ("disparity_space_sampling", "density_noise"):
            if self.option(name, 0):
                self.problems.append(f"rendering option {name} is {shown(self.option(name))}")
        if self.option("decoder_activation", "sigmoid") not in ("sigmoid", None):
            activation = shown(self.option("decoder_activation"))
            self.problems.append(f"decoder_activation {activation} is not sigmoid")
        return RenderingConfig(
            near=near,
            far=far,
            num_coarse_samples=self.samples("depth_resolution", 4),
            num_fine_samples=self.samples("depth_resolution_importance", 0),
            density_activation="softplus_shifted",
            importance_bins="legacy_midpoints",
            semantic_sharpness=float(self.attribute("renderer.sigmoid", 20.0)),
            white_background=bool(self.option("white_back", False)),
            background_class=None,
        )

    def check(self, config: GeneratorConfig) -> None:
        """Find what would be rendered differently; call it when all facts were looked up."""
        attributes = self.network.attributes
        is_smooth = attributes.get(
            "superresolution.sr_antialias", self.option("sr_antialias", True)
        )
        if not is_smooth and config.neural_rendering_resolution > config.sr_input_resolution:
            self.problems.append("rendering option sr_antialias is off; raw renders are smoothed")
        self.problems += layer_problems(self.network)
        self._note_unknown_options()

    def _note_unknown_options(self) -> None:
        """List rendering options that nothing was made of."""
        for name in self.options:
            if name not in self.used and not _WITHOUT_EFFECT.fullmatch(str(name)):
                self.notes.append(f"rendering option {shown(name)} is not known and was ignored")


def channel_rule(channels: dict[int, int], arguments: dict[str, Any], name: str) -> tuple[int, int]:
    """Return base and maximum with channels(r) = min(base // r, maximum) for all resolutions r."""
    given = (arguments.get("channel_base"), arguments.get("channel_max"))
    # The smallest base that gives no resolution too few.
    smallest = (max(r * number for r, number in channels.items()), max(channels.values()))
    for base, maximum in (given, _DEFAULT_CHANNELS, smallest):
        if type(base) is not int or type(maximum) is not int:
            continue
        if all(min(base // r, maximum) == number for r, number in channels.items()):
            return base, maximum
    raise UserError(f"{name} has channels {channels}; min(base / resolution, maximum) is known")
