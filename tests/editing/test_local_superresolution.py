"""A window of a super-resolved picture equals that part of the whole picture."""

import pytest
import torch

from editing.local_superresolution import enlarge_window, find_window, paste
from mate3d.network.superresolution import SuperResolution


def make_network(input_resolution=16, output_resolution=64, noise_mode="none"):
    torch.manual_seed(0)
    return SuperResolution(
        6,
        3,
        8,
        input_resolution=input_resolution,
        output_resolution=output_resolution,
        channels=(5, 4),
        noise_mode=noise_mode,
    ).requires_grad_(False)


def square(side, rows, columns):
    where = torch.zeros(side, side, dtype=torch.bool)
    where[rows, columns] = True
    return where


@pytest.mark.parametrize("output_resolution", [32, 64, 128])
@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(slice(6, 8), slice(6, 7)), (slice(0, 1), slice(0, 2)), (slice(14, 16), slice(7, 9))],
    ids=["middle", "corner", "edge"],
)
def test_a_window_holds_all_that_changed_pixels_can_change(output_resolution, side, rows, columns):
    network = make_network(32, output_resolution)
    scale = side // 16
    where = square(
        side,
        slice(rows.start * scale, rows.stop * scale),
        slice(columns.start * scale, columns.stop * scale),
    )
    draw = torch.Generator().manual_seed(1)
    features, ws = torch.randn(1, 6, side, side, generator=draw), torch.ones(1, 2, 8)
    changed = torch.where(where, torch.randn(1, 6, side, side, generator=draw), features)
    source = network(features[:, :3], features, ws)
    expected = network(changed[:, :3], changed, ws)
    window = find_window(network, where.flatten().nonzero().squeeze(1), side)
    part = enlarge_window(network, window, changed[:, :3], changed, ws)
    torch.testing.assert_close(paste(source, network, window, part), expected)
    assert not torch.equal(source, expected)


def test_a_window_is_smaller_than_the_picture():
    network = make_network(64, 256)
    window = find_window(network, square(64, slice(30, 34), slice(10, 14)).flatten().nonzero(), 64)
    share = torch.zeros(256, 256)
    share[window.rows.changed(4), window.columns.changed(4)] = 1
    assert share.mean() < 0.08


def test_gradients_flow_through_a_window():
    network, ws = make_network(), torch.ones(1, 2, 8)
    features = torch.randn(1, 6, 16, 16, requires_grad=True)
    where = square(16, slice(7, 9), slice(7, 9))
    window = find_window(network, where.flatten().nonzero().squeeze(1), 16)
    with torch.no_grad():
        source = network(features[:, :3], features, ws)
    gradients = []
    for windowed in (True, False):
        image = (
            paste(
                source,
                network,
                window,
                enlarge_window(network, window, features[:, :3], features, ws),
            )
            if windowed
            else network(features[:, :3], features, ws)
        )
        (gradient,) = torch.autograd.grad(image.square().sum(), features)
        gradients.append(gradient[..., where])
    torch.testing.assert_close(*gradients)


def test_noise_has_its_place_so_that_there_is_no_window():
    network = make_network(noise_mode="const")
    assert find_window(network, torch.tensor([5]), 16) is None
