"""Our configuration of a published network, inferred from its arguments and tensor shapes.

A setting that we render differently from the file is never ignored: it is a problem, and problems
are errors unless the caller asks for a list of them.
"""

import re

from mate3d.errors import UserError
from mate3d.generator import GeneratorConfig
from mate3d.network.discriminator import DiscriminatorConfig
from mate3d.published.facts import GeneratorFacts, channel_rule
from mate3d.published.layers import stored_gains
from mate3d.published.networks import PublishedNetwork
from mate3d.published.plain_values import is_number, shown


def infer_generator(network: PublishedNetwork) -> GeneratorFacts:
    """Infer a published generator's configuration and gains, collecting problems and notes.

    Raises:
        UserError: If the network is not a generator of MaTe3D or EG3D.
    """
    facts = GeneratorFacts(network)
    is_density = "decoder.net.0.weight" in network.state
    decoder = "decoder.net" if is_density else "decoder.net_tex"
    to_planes = "torgb" if is_density else "torgb_tex"
    side = "neural_rendering_resolution"
    facts.config = GeneratorConfig(
        **facts.mapping(),
        **facts.backbone(),
        **facts.superresolution(),
        label_set=facts.label_set(is_density),
        mapping_lr_multiplier=facts.attribute("backbone.mapping.fc0.bias_gain", 0.01),
        camera_scale=facts.camera_scale(),
        plane_channels=network.size(f"backbone.synthesis.b4.{to_planes}.weight", 0) // 3,
        plane_layout=facts.plane_layout(),
        backbone_clamp=facts.clamp("backbone.synthesis.", None),
        hidden_width=network.size(f"{decoder}.0.weight", 0),
        num_features=network.size(f"{decoder}.2.weight", 0) - int(is_density),
        geometry="density" if is_density else "sdf",
        plane_branches="single" if is_density else "dual",
        box_size=facts.number("box_warp", above=0),
        beta=0.1 if is_density else facts.beta(),
        neural_rendering_resolution=facts.whole(side, network.attributes.get(side)),
        sr_noise_mode=facts.sr_noise_mode(),
        sr_clamp=facts.clamp("superresolution", 256.0),
        camera_rig=facts.camera_rig(),
        rendering=facts.rendering(),
    )
    multipliers = (facts.config.mapping_lr_multiplier, facts.decoder_multiplier())
    facts.gains = dict(stored_gains(network, *multipliers))
    facts.check()
    return facts


def discriminator_config(network: PublishedNetwork) -> DiscriminatorConfig:
    """Return the configuration of a published discriminator.

    Raises:
        UserError: If the network is not a discriminator of MaTe3D or EG3D.
    """
    pattern = re.compile(r"b(\d{1,5})\.conv0\.weight")
    sides = sorted(int(match[1]) for match in map(pattern.fullmatch, network.state) if match) or [8]
    channels = {4: network.size("b4.conv.weight", 0)}
    channels |= {side: network.size(f"b{side}.conv0.weight", 0) for side in sides}
    base, maximum = channel_rule(channels, network.init_kwargs, network.class_name)
    clamp = network.attributes.get(f"b{sides[-1]}.conv0.conv_clamp", 256.0)
    group_size = network.attributes.get("b4.mbstd.group_size", 4)
    if type(group_size) is not int or group_size < 1 or not (clamp is None or is_number(clamp)):
        raise UserError(
            f"{network.class_name}: unsupported group size {shown(group_size)} or clamp"
            f" {shown(clamp)}"
        )
    return DiscriminatorConfig(
        image_channels=network.size(f"b{sides[-1]}.fromrgb.weight", 1) // 2,
        resolution=sides[-1],
        channel_base=base,
        channel_max=maximum,
        mapping_layers=network.count(r"mapping\.fc\d+\.weight"),
        clamp=None if clamp is None else float(clamp),
        stddev_group_size=group_size,
    )
