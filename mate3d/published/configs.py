"""Our configuration of a published network, inferred from its arguments and tensor shapes.

A rendering option that we do not follow is never ignored: it is a problem, and problems are errors
unless the caller asks for a list of them.
"""

from mate3d.generator import GeneratorConfig
from mate3d.published.facts import GeneratorFacts
from mate3d.published.layers import stored_gains
from mate3d.published.networks import PublishedNetwork


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
        sr_noise_mode=facts.option("superresolution_noise_mode", "none"),
        sr_clamp=facts.clamp("superresolution", 256.0),
        camera_rig=facts.camera_rig(),
        rendering=facts.rendering(),
    )
    decoder_multiplier = facts.number("decoder_lr_mul", 1, above=0)
    multipliers = (facts.config.mapping_lr_multiplier, decoder_multiplier)
    facts.gains = dict(stored_gains(network, *multipliers))
    facts.check()
    return facts
