"""Tests of people's attributes and of the map from latents to them."""

import torch

from mate3d.procedural.attributes import color_name
from mate3d.procedural.people.person import (
    HAIR_PALETTE,
    SKIN_PALETTE,
    person_parameters_from_latent,
)


def test_hats_glasses_beards_and_bald_heads_are_a_minority():
    z = torch.randn(2000, 64, generator=torch.Generator().manual_seed(3))
    p = person_parameters_from_latent(z)
    shares = {name: (getattr(p, name) > 0.5).float().mean() for name in ("hat", "glasses", "beard")}
    assert all(0.05 < share < 0.4 for share in shares.values()), shares
    assert 0.02 < (p.hair < 0.5).float().mean() < 0.1
    # Shares between absent and present are rare.
    for name in ("hat", "glasses", "beard"):
        between = (getattr(p, name) > 0) & (getattr(p, name) < 1)
        assert between.float().mean() < 0.04


def test_hair_colours_suit_the_skin():
    z = torch.randn(4000, 64, generator=torch.Generator().manual_seed(5))
    people = person_parameters_from_latent(z)
    hairs = [color_name(color, HAIR_PALETTE) for color in people.hair_color]
    skins = [color_name(color, SKIN_PALETTE) for color in people.skin_color]

    def share(skin: tuple[str, ...], hair: tuple[str, ...]) -> float:
        chosen = [h for h, s in zip(hairs, skins, strict=True) if s in skin]
        return sum(h in hair for h in chosen) / len(chosen)

    assert share(("deep", "brown"), ("black", "dark brown")) > 0.7
    assert 0.005 < share(("deep", "brown"), ("red", "blonde")) < 0.08
    assert share(("light", "fair"), ("red", "blonde")) > 0.25
    assert all(share(("light", "fair"), (name,)) > 0.04 for name in HAIR_PALETTE)
