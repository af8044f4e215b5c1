"""Look up facts about a published generator in its tensors, attributes and options."""

import math
import re
from typing import Any

from torch import Tensor

from mate3d.cameras import DEFAULT_FOCAL, DEFAULT_RADIUS, CameraRig
from mate3d.errors import UserError
from mate3d.generator import GeneratorConfig
from mate3d.published.networks import PublishedNetwork
from mate3d.published.plain_values import is_number, plain_numbers, shown
from mate3d.rendering.renderer import RenderingConfig
from mate3d.rendering.triplane import PlaneLayout, find_plane_layout

LABEL_SETS = {19: "celebamask_hq", 6: "catmask_hq", 0: "unlabelled"}
_DEFAULT_CHANNELS = (32768, 512)
_MAX_SIDE = 4096
# Values that our renderer supports.
_KNOWN_OPTIONS = {
    "clamp_mode": "softplus",
    "decoder_activation": "sigmoid",
    "disparity_space_sampling": False,
    "density_noise": 0,
}
# Options that only affect training, or that repeat tensor shapes.
_WITHOUT_EFFECT = re.compile(
    r"image_resolution|superresolution_module(_semantic)?|gpc_reg_.*|gen_pose_cond|density_reg.*"
    r"|reg_type|decoder_output_dim"
)


class GeneratorFacts:
    """Looks facts up in a network's tensors, attributes and rendering options.

    Attributes:
        config: Rebuilds the generator; set, like gains, once all facts are known.
        gains: Factors for some published tensors.
        problems: Settings in the file that our renderer does not support; results would differ.
        notes: Assumptions, and settings without effect here.
    """

    config: GeneratorConfig
    gains: dict[str, float]

    def __init__(self, network: PublishedNetwork):
        self.network, self.state = network, network.state
        # The attribute may have been edited after construction, so it wins.
        options = network.attributes.get("rendering_kwargs")
        if not isinstance(options, dict):
            options = network.init_kwargs.get("rendering_kwargs")
        if not isinstance(options, dict):
            raise UserError(
                f"{network.class_name} has no rendering_kwargs, so it is not a generator"
            )
        self.options: dict[str, Any] = options
        self.used: set[str] = set()
        self.problems: list[str] = []
        self.notes: list[str] = []

    def attribute(self, name: str, default: float) -> float:
        """Return a number above 0 among the attributes."""
        value = plain_numbers(self.network.attributes.get(name, default))
        if is_number(value) and value > 0:
            return float(f"{value:.7g}")
        self.problems.append(f"{name} is {shown(value)}; assuming {default:g}")
        return default

    def whole(self, name: str, value: Any, minimum: int = 1) -> int:
        """Return a number of pixels or samples."""
        if type(value) is not int or not minimum <= value <= _MAX_SIDE:
            raise UserError(f"{name} is {shown(value)} (expected {minimum} to {_MAX_SIDE})")
        return value

    def option(self, name: str, default: Any = None) -> Any:
        """Return a rendering option."""
        self.used.add(name)
        return plain_numbers(self.options.get(name, default))

    def number(self, name: str, default: float | None = None, above: float = -math.inf) -> float:
        """Return a rendering option that must be a number."""
        value = self.option(name, default)
        if not is_number(value) or not value > above:
            limit = "" if above == -math.inf else f" above {above:g}"
            raise UserError(f"rendering option {name} is {shown(value)} (expected a number{limit})")
        return float(value)

    def mapping(self) -> dict[str, int]:
        """Return the widths of the latents and the number of mapping layers."""
        w_dim = self.network.size("backbone.mapping.embed.weight", 0)
        number = self.network.count(r"backbone\.mapping\.fc\d+\.weight")
        # The first layer takes the latent and the embedded camera.
        z_dim = self.network.size("backbone.mapping.fc0.weight", 1) - w_dim
        return {"z_dim": z_dim, "w_dim": w_dim, "mapping_layers": number}

    def backbone(self) -> dict[str, int]:
        """Return the planes' side and the channel rule, the stored one if it fits the shapes."""
        pattern = re.compile(r"backbone\.synthesis\.b(\d{1,5})\.")
        sides = sorted({int(match[1]) for match in map(pattern.match, self.state) if match})
        if not sides or sides != [4 * 2**i for i in range(len(sides))]:
            raise UserError(
                f"{self.network.class_name} has backbone blocks {sides} (expected 4, 8, 16, ...)"
            )
        channels = {r: self.network.size(f"backbone.synthesis.b{r}.conv1.weight", 0) for r in sides}
        base, maximum = channel_rule(channels, self.network.init_kwargs, self.network.class_name)
        return {"plane_resolution": sides[-1], "channel_base": base, "channel_max": maximum}

    def plane_layout(self) -> PlaneLayout:
        """Read the axes of the three planes from the constant in the file."""
        axes = self.network.attributes.get("renderer.plane_axes")
        if not isinstance(axes, Tensor):
            self.notes.append("no renderer.plane_axes in the file; assuming EG3D's layout")
            return "eg3d_legacy"
        layout = None
        if axes.shape == (3, 3, 3):
            pairs = [(p[0].argmax().item(), p[1].argmax().item()) for p in axes.float()]
            is_permutation = bool(((axes == 0) | (axes == 1)).all() and (axes.sum(-1) == 1).all())
            layout = find_plane_layout(pairs) if is_permutation else None
        if layout is None:
            raise UserError("renderer.plane_axes in the file do not match a known plane layout")
        return layout

    def label_set(self, is_density: bool) -> str:
        """Infer the label set from the number of local heads."""
        number = self.network.count(r"decoder\.net_main_shp_bbbb_\d+\.0\.weight")
        if number not in LABEL_SETS or (number == 0) != is_density:
            raise UserError(
                f"the decoder has {number} local heads (expected 19 for celebamask_hq, 6 for"
                " catmask_hq, none for EG3D's density decoder)"
            )
        return LABEL_SETS[number]

    def beta(self) -> float:
        """Return the decoder's beta."""
        self.network.size("decoder.sigmoid_beta", 0)
        return float(f"{self.state['decoder.sigmoid_beta'].flatten()[0].item():.7g}")

    def camera_scale(self) -> float:
        """Return the factor on the conditioning camera; 0 disables it (spec 4)."""
        scale = self.number("c_scale", 0)
        return 0.0 if self.option("c_gen_conditioning_zero") else scale

    def clamp(self, part: str, default: float | None) -> float | None:
        """Return the activation clamp of the layers whose names start with `part`."""
        attributes = self.network.attributes.items()
        clamps = [v for k, v in attributes if k.startswith(part) and k.endswith(".conv_clamp")]
        value = clamps[0] if clamps else default
        return None if value is None else float(value)

    def superresolution(self) -> dict[str, Any]:
        """Return the input side, the final side and the channels of the super-resolution blocks."""
        blocks = self.network.count(r"superresolution\.block\d\.conv1\.weight")
        names = [f"superresolution.block{index}" for index in range(blocks)]
        sides = [self.network.size(f"{name}.conv1.noise_const", 0) for name in names]
        name = "superresolution.input_resolution"
        start = self.whole(name, self.network.attributes.get(name))
        # Blocks keep the side or double it; those that keep it come first.
        doubled = [start * 2 ** (i + 1) for i in range(blocks)]
        fits = any(sides == [start] * n + doubled[: blocks - n] for n in range(blocks + 1))
        if blocks == 0 or not fits:
            raise UserError(f"super-resolution from {start} px has blocks of {sides} px")
        channels = tuple(self.network.size(f"{name}.conv1.weight", 0) for name in names)
        return {"sr_input_resolution": start, "resolution": sides[-1], "sr_channels": channels}

    def camera_rig(self) -> CameraRig:
        """Return the default cameras.

        Snapshots do not store a focal length. EG3D's sample script computes 4.2634 from a field of
        view of 18.837 degrees with rounded constants. The training cameras have 4.2647, which we
        use.
        """
        assumed = {"avg_camera_radius": DEFAULT_RADIUS, "avg_camera_pivot": [0, 0, 0]}
        missing = [name for name in assumed if name not in self.options]
        self.notes += [f"no {name} in the file; assuming {assumed[name]}" for name in missing]
        radius, pivot = (self.option(name, value) for name, value in assumed.items())
        return CameraRig(radius, pivot, DEFAULT_FOCAL)

    def rendering(self) -> RenderingConfig:
        """Return the renderer's settings; unsupported ones are problems or errors."""
        near, far = self.number("ray_start"), self.number("ray_end")
        if not 0 <= near < far:
            raise UserError(
                f"ray_start={near:g} and ray_end={far:g} (expected 0 <= ray_start < ray_end)"
            )
        for name, known in _KNOWN_OPTIONS.items():
            if self.option(name, known) not in (known, None):
                value = shown(self.option(name))
                self.problems.append(f"rendering option {name} is {value} (expected {known})")
        coarse, fine = "depth_resolution", "depth_resolution_importance"
        return RenderingConfig(
            near=near,
            far=far,
            num_coarse_samples=self.whole(coarse, self.option(coarse), 4),
            num_fine_samples=self.whole(fine, self.option(fine), 0),
            density_activation="softplus_shifted",
            importance_bins="legacy_midpoints",
            semantic_sharpness=self.attribute("renderer.sigmoid", 20.0),
            white_background=bool(self.option("white_back", False)),
            background_class=None,
        )

    def check(self) -> None:
        """Find differences in rendering; call this once all facts are known."""
        is_smooth = self.network.attributes.get(
            "superresolution.sr_antialias", self.option("sr_antialias", True)
        )
        side = self.config.neural_rendering_resolution
        if not is_smooth and side > self.config.sr_input_resolution:
            self.problems.append(
                "rendering option sr_antialias is off, but we always smooth raw renders"
            )
        self.notes += [
            f"rendering option {shown(name)} is unknown and was ignored"
            for name in self.options
            if name not in self.used and not _WITHOUT_EFFECT.fullmatch(str(name))
        ]


def channel_rule(channels: dict[int, int], arguments: dict[str, Any], name: str) -> tuple[int, int]:
    """Return base and maximum with channels(r) = min(base // r, maximum) for all resolutions r."""
    given = (arguments.get("channel_base"), arguments.get("channel_max"))
    # The smallest base that is large enough at every resolution.
    smallest = (max(r * number for r, number in channels.items()), max(channels.values()))
    for base, maximum in (given, _DEFAULT_CHANNELS, smallest):
        if type(base) is not int or type(maximum) is not int:
            continue
        if all(min(base // r, maximum) == number for r, number in channels.items()):
            return base, maximum
    raise UserError(f"{name} has channels {channels} (expected min(base / resolution, maximum))")
