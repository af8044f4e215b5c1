"""Grids and histograms of a snapshot."""

from dataclasses import replace

import torch

from mate3d.generator import Generator
from training.run_folder.geometry_histograms import geometry_histograms
from training.run_folder.grids import real_grids, render_grids
from training.step_inputs import Latents, RealBatch


def make_latents(generator, camera, num):
    torch.manual_seed(1)
    return Latents(torch.randn(num, generator.config.z_dim), camera.expand(num, -1))


def test_grids_show_all_kinds_of_pictures_and_draw_no_random_numbers(tiny_generator, camera):
    latents = make_latents(tiny_generator, camera, 3)
    before = torch.get_rng_state()
    grids = render_grids(tiny_generator, latents, columns=2)
    geometry_histograms(tiny_generator, latents)
    assert torch.get_rng_state().equal(before)
    assert set(grids) == {"image", "segmentation", "overlay", "depth", "normals", "sdf_slices"}
    for name, grid in render_grids(tiny_generator, latents, columns=2).items():
        assert grid.equal(grids[name]), name
        assert name == "sdf_slices" or grid.shape == (3, 32, 32), name
        assert -1 <= float(grid.min()) and float(grid.max()) <= 1, name
    mask = torch.eye(6)[:, :, None, None].expand(-1, -1, 16, 16)
    grids = real_grids(tiny_generator, RealBatch(torch.ones(6, 3, 16, 16), mask, camera), columns=3)
    expected = (grids["real_image"] + grids["real_segmentation"]) / 2
    torch.testing.assert_close(grids["real_overlay"], expected)


def test_density_without_labels_has_neither_segmentation_nor_beta(tiny_generator, camera):
    config = tiny_generator.config
    rendering = replace(config.rendering, density_activation="softplus_shifted")
    config = replace(config, label_set="unlabelled", geometry="density", rendering=rendering)
    generator = Generator(config).eval().requires_grad_(False)
    latents = make_latents(generator, camera, 2)
    grids = render_grids(generator, latents, columns=2)
    assert set(grids) == {"image", "depth", "normals", "sdf_slices"}
    real = RealBatch(torch.zeros(2, 3, 16, 16), torch.zeros(2, 0, 16, 16), camera.expand(2, -1))
    assert set(real_grids(generator, real, columns=2)) == {"real_image"}
    histograms = geometry_histograms(generator, latents)
    assert set(histograms) == {"SDF/box", "SDF/near_surface", "SDF/gradient_length"}


def test_histograms_hold_distances_of_the_whole_and_of_each_part(tiny_generator, camera):
    histograms = geometry_histograms(tiny_generator, make_latents(tiny_generator, camera, 6))
    parts = {f"SDF_class/{name}" for name in tiny_generator.label_set.class_names}
    whole = {"SDF/box", "SDF/near_surface", "SDF/gradient_length", "SDF/beta"}
    assert set(histograms) == whole | parts
    box, near = histograms["SDF/box"].abs(), histograms["SDF/near_surface"].abs()
    assert len(box) == 4 * 16384 and len(near) == 4 * 1024
    heads = zip(box.view(4, -1), near.view(4, -1), strict=True)
    for all_distances, nearest in heads:
        assert nearest.max() == all_distances.sort().values[1023]
