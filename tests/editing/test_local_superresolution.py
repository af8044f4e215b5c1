"""A window of a super-resolved picture equals that part of the whole picture."""

import pytest
import torch

from editing.views import enlarge_window, find_window
from mate3d.network.synthesis import SuperResolution


def make_network(input_resolution=16, output_resolution=64, noise_mode="none"):
    torch.manual_seed(0)
    sides = {"input_resolution": input_resolution, "output_resolution": output_resolution}
    network = SuperResolution(6, 3, 8, **sides, channels=(5, 4), noise_mode=noise_mode)
    return network.requires_grad_(False)


def square(side, rows, columns):
    where = torch.zeros(side, side, dtype=torch.bool)
    where[rows, columns] = True
    return where


PLACES = {
    "middle": (slice(6, 8), slice(6, 7)),
    "corner": (slice(0, 1), slice(0, 2)),
    "edge": (slice(14, 16), slice(7, 9)),
}


@pytest.mark.parametrize("output_resolution", [32, 64, 128])
@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("place", PLACES)
def test_a_window_holds_all_that_changed_pixels_can_change(output_resolution, side, place):
    network, scale = make_network(32, output_resolution), side // 16
    where = square(side, *(slice(part.start * scale, part.stop * scale) for part in PLACES[place]))
    draw = torch.Generator().manual_seed(1)
    features, ws = torch.randn(1, 6, side, side, generator=draw), torch.ones(1, 2, 8)
    changed = torch.where(where, torch.randn(1, 6, side, side, generator=draw), features)
    source = network(features[:, :3], features, ws)
    changed.requires_grad_()
    expected = network(changed[:, :3], changed, ws)
    window = find_window(network, where.flatten().nonzero().squeeze(1), side)
    found = enlarge_window(network, window, source, changed[:, :3], changed, ws)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(source, expected)
    gradients = [
        torch.autograd.grad(image.square().sum(), changed)[0][..., where]
        for image in (found, expected)
    ]
    torch.testing.assert_close(*gradients)


def test_a_window_is_smaller_than_the_picture():
    network, share = make_network(64, 256), torch.zeros(256, 256)
    window = find_window(network, square(64, slice(30, 34), slice(10, 14)).flatten().nonzero(), 64)
    share[window.changed] = 1
    assert share.mean() < 0.08


def test_noise_has_its_place_so_that_there_is_no_window():
    network = make_network(noise_mode="const")
    assert find_window(network, torch.tensor([5]), 16) is None
