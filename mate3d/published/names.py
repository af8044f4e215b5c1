"""Names of the published state dicts (MaTe3D and EG3D), mapped to ours."""

import re
from collections.abc import Mapping

from torch import Tensor

# Order matters: each rule applies to the result of the previous ones. Names that become empty
# belong to stored filters that nothing uses.
_GENERATOR_RULES = (
    (r"^superresolution(_semantic)?\.resample_filter$", ""),
    (r"^backbone\.mapping\.fc(\d+)\.", r"mapping.layers.\1."),
    (r"^backbone\.mapping\.", "mapping."),
    (r"^backbone\.synthesis\.(b\d+)\.", r"backbone.blocks.\1."),
    (r"\.torgb_tex\.", ".to_image.texture."),
    (r"\.torgb_shp\.", ".to_image.shape."),
    # EG3D has one tri-plane and one head in its decoder.
    (r"^(backbone\.blocks\.b\d+)\.torgb\.", r"\1.to_image.planes."),
    (r"^decoder\.net\.", "decoder.density_head."),
    (r"^superresolution_semantic\.", "segmentation_superresolution."),
    (r"^((?:segmentation_)?superresolution)\.block(\d)\.", r"\1.blocks.\2."),
    (r"\.torgb\.", ".to_image.image."),
    (r"^decoder\.sigmoid_beta$", "decoder.beta"),
    (r"^decoder\.net_tex\.", "decoder.color_head."),
    (r"^decoder\.net_main_shp\.", "decoder.sdf_head."),
    (r"^decoder\.net_main_shp_bbbb_(\d+)\.", r"decoder.class_heads.\1."),
)

_DISCRIMINATOR_RULES = (
    (r"^(b\d+\.)?resample_filter$", ""),
    (r"^mapping\.fc(\d+)\.", r"mapping.layers.\1."),
    (r"^b4\.", "head."),
    (r"^(b\d+)\.", r"blocks.\1."),
    (r"\.fromrgb\.", ".from_image."),
)


def generator_name(published_name: str) -> str | None:
    """Return our name of a tensor in a published generator's state dict; None if unused."""
    return _rename(published_name, _GENERATOR_RULES)


def discriminator_name(published_name: str) -> str | None:
    """Return our name of a tensor in a published discriminator's state dict; None if unused."""
    return _rename(published_name, _DISCRIMINATOR_RULES)


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name or None


def convert_discriminator_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published discriminator's tensors; our module loads the result strictly."""
    return {name: tensor for key, tensor in state.items() if (name := discriminator_name(key))}
