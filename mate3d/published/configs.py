"""Our configuration of a published network, inferred from its arguments and tensor shapes.

What renders differently here than the file asks for is never passed over: it is a problem, and a
problem is an error unless the caller asks for the list.
"""

import re
from dataclasses import dataclass, field

from mate3d.errors import UserError
from mate3d.generator import GeneratorConfig
from mate3d.network.discriminator import DiscriminatorConfig
from mate3d.published.facts import GeneratorFacts, channel_rule
from mate3d.published.layers import stored_gains
from mate3d.published.networks import PublishedNetwork
from mate3d.published.pickle_machine import shown
from mate3d.published.plain_values import is_number, rounded


@dataclass
class InferredGenerator:
    """A generator's configuration and what could not be carried over.

    Args:
        config: Rebuilds the generator.
        problems: Settings of the file that our renderer does not follow; results would differ.
        notes: What was assumed, or is without effect here.
        gains: Factors that some published tensors must be multiplied by.
    """

    config: GeneratorConfig
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gains: dict[str, float] = field(default_factory=dict)


def generator_config(network: PublishedNetwork) -> GeneratorConfig:
    """Return the configuration of a published generator (MaTe3D or EG3D).

    Raises:
        UserError: If the network is no such generator, or wants something that we do not render.
    """
    inferred = infer_generator(network)
    if inferred.problems:
        raise UserError("; ".join(inferred.problems))
    return inferred.config


def infer_generator(network: PublishedNetwork) -> InferredGenerator:
    """Infer a published generator's configuration, collecting problems instead of failing.

    Raises:
        UserError: If the network is no generator of MaTe3D or EG3D.
    """
    facts = GeneratorFacts(network)
    is_density = "decoder.net.0.weight" in network.state
    base, maximum = facts.backbone_channels()
    sr_input_resolution, resolution, sr_channels = facts.superresolution()
    w_dim = facts.size("backbone.mapping.embed.weight", 0)
    decoder = "decoder.net" if is_density else "decoder.net_tex"
    config = GeneratorConfig(
        label_set=facts.label_set(is_density),
        z_dim=facts.z_dim(w_dim),
        w_dim=w_dim,
        mapping_layers=facts.mapping_layers(),
        mapping_lr_multiplier=rounded(facts.attribute("backbone.mapping.fc0.bias_gain", 0.01)),
        camera_scale=facts.camera_scale(),
        plane_resolution=max(facts.resolutions()),
        plane_channels=facts.plane_channels(is_density),
        plane_layout=facts.plane_layout(),
        channel_base=base,
        channel_max=maximum,
        backbone_clamp=facts.backbone_clamp(),
        hidden_width=facts.size(f"{decoder}.0.weight", 0),
        num_features=facts.size(f"{decoder}.2.weight", 0) - int(is_density),
        geometry="density" if is_density else "sdf",
        plane_branches="single" if is_density else "dual",
        box_size=facts.number("box_warp", above=0),
        beta=0.1 if is_density else rounded(facts.beta()),
        neural_rendering_resolution=facts.neural_rendering_resolution(),
        sr_input_resolution=sr_input_resolution,
        resolution=resolution,
        sr_channels=sr_channels,
        sr_noise_mode=facts.sr_noise_mode(),
        sr_clamp=facts.sr_clamp(),
        camera_rig=facts.camera_rig(),
        rendering=facts.rendering(),
    )
    gains = dict(stored_gains(network, config.mapping_lr_multiplier, facts.decoder_multiplier()))
    facts.check(config)
    return InferredGenerator(config, facts.problems, facts.notes, gains)


def discriminator_config(network: PublishedNetwork) -> DiscriminatorConfig:
    """Return the configuration of a published discriminator.

    Raises:
        UserError: If the network is no discriminator of MaTe3D or EG3D.
    """
    state, name = network.state, network.class_name
    sides = sorted(
        int(match[1])
        for match in (re.fullmatch(r"b(\d{1,5})\.conv0\.weight", n) for n in state)
        if match
    )
    required = ["b4.conv.weight", "mapping.fc0.weight"]
    required += [f"b{sides[-1]}.fromrgb.weight"] if sides else ["b8.conv0.weight"]
    for tensor in required:
        if tensor not in state or state[tensor].ndim < 2:
            raise UserError(f"{name} has no tensor {tensor} as discriminators have")
    channels = {4: state["b4.conv.weight"].shape[0]}
    channels |= {side: state[f"b{side}.conv0.weight"].shape[0] for side in sides}
    base, maximum = channel_rule(channels, network.init_kwargs, name)
    clamp = network.attributes.get(f"b{sides[-1]}.conv0.conv_clamp", 256.0)
    group_size = network.attributes.get("b4.mbstd.group_size", 4)
    if type(group_size) is not int or group_size < 1 or not (clamp is None or is_number(clamp)):
        raise UserError(f"{name} has the group size {shown(group_size)} or clamp {shown(clamp)}")
    return DiscriminatorConfig(
        image_channels=state[f"b{sides[-1]}.fromrgb.weight"].shape[1] // 2,
        resolution=sides[-1],
        channel_base=base,
        channel_max=maximum,
        mapping_layers=sum(re.fullmatch(r"mapping\.fc\d+\.weight", n) is not None for n in state),
        clamp=None if clamp is None else float(clamp),
        stddev_group_size=group_size,
    )
