"""Tests of whole portraits of people by seed."""

import torch

from mate3d.procedural.portraits import make_procedural_person


def test_same_seed_gives_the_same_portrait_alone_and_in_a_batch():
    batch, alone = make_procedural_person([3, 8], 32), make_procedural_person([8], 32)
    assert batch.captions[1] == alone.captions[0]
    torch.testing.assert_close(batch.z[1:], alone.z, rtol=0, atol=0)
    # A ray that grazes hair may end a step earlier beside other people.
    same = (batch.render.label_map[1] == alone.render.label_map[0]).float().mean()
    assert same > 0.99
    change = (batch.render.image[1] - alone.render.image[0]).abs()
    assert change.mean() < 2e-3


def test_set_attribute_is_told_and_seen():
    plain = make_procedural_person([3], 32, attributes={"hat": 0.0})
    hatted = make_procedural_person([3], 32, attributes={"hat": 1.0, "hat_brim": 0.0})
    assert hatted.attributes[0]["hat"] == 1.0
    assert "beanie" in hatted.captions[0] and "beanie" not in plain.captions[0]
    assert (hatted.render.label_map == 14).any() and not (plain.render.label_map == 14).any()
