"""Density geometry, one tri-plane, no labels: against loops written from EG3D's formulas."""

import pytest
import torch
import torch.nn.functional as F

from editing.portrait import sample_portrait
from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator, save_generator
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.network.density_decoder import DensityDecoder
from mate3d.outputs.mesh import extract_mesh
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import RenderingConfig, render_field
from scripts import edit
from tests.eg3d import RENDERING, make_generator
from tests.golden import assert_golden


@pytest.fixture
def eg3d() -> Generator:
    return make_generator()


@pytest.fixture
def ws(eg3d) -> torch.Tensor:
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    return eg3d.map(z, make_camera(yaw=0.0).expand(2, -1))


@pytest.fixture
def cameras() -> torch.Tensor:
    return torch.cat([make_camera(yaw=0.3, pitch=0.1), make_camera(yaw=-0.2, pitch=0.0)])


def naive_decode(generator, planes, points):
    """Return raw density [N] and colours [N, F] of one head from EG3D's formulas."""
    looked_up = 0
    for plane, (horizontal, vertical) in zip(planes, ((0, 1), (0, 2), (2, 0)), strict=True):
        grid = points[:, [horizontal, vertical]] * 2 / generator.config.box_size
        looked_up = looked_up + F.grid_sample(
            plane[None], grid[None, None], align_corners=False, padding_mode="zeros"
        )
    features = (looked_up / 3)[0, :, 0].T
    state = {name: value.double() for name, value in generator.decoder.state_dict().items()}
    hidden = features @ state["density_head.0.weight"].T / features.shape[1] ** 0.5
    hidden = F.softplus(hidden + state["density_head.0.bias"])
    outputs = hidden @ state["density_head.2.weight"].T / hidden.shape[1] ** 0.5
    outputs = outputs + state["density_head.2.bias"]
    return outputs[:, 0], torch.sigmoid(outputs[:, 1:]) * (1 + 2 * 0.001) - 0.001


def naive_weights(depths, density):
    weights, transmitted = [], 1.0
    for i in range(len(depths) - 1):
        absorption = F.softplus((density[i] + density[i + 1]) / 2 - 1)
        alpha = 1 - torch.exp(-absorption * (depths[i + 1] - depths[i]))
        weights.append(alpha * transmitted)
        transmitted = transmitted * (1 - alpha + 1e-10)
    return torch.stack(weights)


def naive_fine_depths(coarse, weights, num):
    count = len(coarse)
    m = [torch.max(weights[max(k - 1, 0)], weights[min(k, count - 2)]) for k in range(count)]
    s = [(m[k] + m[k + 1]) / 2 + 0.01 for k in range(count - 1)]
    bins = [(coarse[j] + coarse[j + 1]) / 2 for j in range(count - 1)]
    mass = torch.stack(s[1:-1]) + 1e-5
    cdf = torch.cat([torch.zeros(1).double(), torch.cumsum(mass / mass.sum(), 0)])
    fine = []
    for u in torch.linspace(0, 1, num).double():
        above = next((k for k in range(len(cdf)) if cdf[k] > u), len(cdf))
        low, high = max(above - 1, 0), min(above, len(cdf) - 1)
        step = cdf[high] - cdf[low]
        step = step if step >= 1e-5 else 1.0
        fine.append(bins[low] + (u - cdf[low]) / step * (bins[high] - bins[low]))
    return torch.stack(fine)


def naive_ray(generator, planes, origin, direction):
    """Return marched features in -1..1 and expected depth of one ray."""
    config = generator.config.rendering
    count = config.num_coarse_samples
    spacing = (config.far - config.near) / (count - 1)
    coarse = torch.tensor([config.near + (i + 0.5) * spacing for i in range(count)]).double()
    density, _ = naive_decode(generator, planes, origin + coarse[:, None] * direction)
    fine = naive_fine_depths(coarse, naive_weights(coarse, density), config.num_fine_samples)
    depths = torch.cat([coarse, fine]).sort().values
    density, colors = naive_decode(generator, planes, origin + depths[:, None] * direction)
    weights = naive_weights(depths, density)
    color, depth = 0.0, 0.0
    for i, weight in enumerate(weights):
        color = color + weight * (colors[i] + colors[i + 1]) / 2
        depth = depth + weight * (depths[i] + depths[i + 1]) / 2
    return 2 * color - 1, depth / weights.sum()


def test_look_up_decoder_and_marching_agree_with_loops(eg3d, ws, cameras):
    origins, directions = sample_rays(cameras, 6)
    field = eg3d.make_field(ws)
    view = render_field(field, origins, directions, RENDERING, with_samples=True)
    density = view.samples.density
    assert density.min() < -1 and density.max() > 10, (density.min(), density.max())
    features, depth = [], []
    for planes, head_origins, head_directions in zip(
        field.texture_planes.double(), origins.double(), directions.double(), strict=True
    ):
        rays = zip(head_origins, head_directions, strict=True)
        results = [naive_ray(eg3d, planes, origin, direction) for origin, direction in rays]
        features.append(torch.stack([color for color, _ in results]).T.reshape(-1, 6, 6))
        depth.append(torch.stack([one for _, one in results]).view(1, 6, 6))
    assert_golden(view.feature_image, torch.stack(features).float())
    assert_golden(view.depth, torch.stack(depth).float())


def test_pseudo_distance_is_negative_where_density_exceeds_the_level(eg3d):
    decoder, features = eg3d.decoder, torch.randn(1, 500, 4, generator=torch.manual_seed(0)) * 3
    raw = decoder.density_head(features)[..., :1]
    sdf = decoder.sdf(features)
    assert ((sdf < 0) == (raw > 10)).all() and (sdf < 0).any() and (sdf > 0).any()
    torch.testing.assert_close(decoder.density(sdf), raw, atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(decoder.distances(features)[0], sdf)


def test_mesh_vertices_lie_where_density_has_its_level(eg3d, ws):
    field = eg3d.make_field(ws[:1])
    mesh = extract_mesh(field, box_size=1.0, resolution=48)
    inside = abs(mesh.vertices).max(axis=1) < 0.49
    points = torch.from_numpy(mesh.vertices[inside]).float().unsqueeze(0)
    density = field.density(field.sdf(points))
    whole = field.density(field.sdf(torch.rand(1, 4000, 3) - 0.5))
    assert (density - 10).abs().median() < 0.02 * whole.std()


@pytest.mark.parametrize("geometry", ["sdf", "density"])
@pytest.mark.parametrize("branches", ["single", "dual"])
@pytest.mark.parametrize("label_set", ["catmask_hq", "unlabelled"])
def test_every_combination_renders_and_survives_a_checkpoint(
    geometry, branches, label_set, cameras, tmp_path
):
    generator = make_generator(geometry=geometry, plane_branches=branches, label_set=label_set)
    output = generator(torch.ones(2, 8), cameras)
    if label_set == "catmask_hq":
        assert output.segmentation.shape == (2, 6, 16, 16)
        assert output.segmentation_raw.std() > 0
    else:
        assert output.segmentation is None and output.segmentation_raw is None
    save_generator(tmp_path / "model", generator)
    loaded = load_generator(tmp_path / "model")
    assert loaded.config == generator.config
    assert torch.equal(loaded(torch.ones(2, 8), cameras).image, output.image)
    assert isinstance(loaded.decoder, DensityDecoder) == (geometry == "density")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rendering": RenderingConfig()}, "rendering.density_activation=identity"),
        ({"learn_beta": True}, "learn_beta=true"),
        ({"geometry": "mesh"}, "geometry=mesh"),
        ({"plane_branches": "three"}, "plane_branches=three"),
    ],
)
def test_options_that_contradict_each_other_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        make_generator(**changes)


def test_generators_without_distances_of_labels_cannot_be_edited(eg3d, tmp_path, capsys):
    with pytest.raises(UserError, match="label_set=unlabelled"):
        sample_portrait(make_generator(geometry="sdf"), seed=0, truncation_psi=1.0)
    save_generator(tmp_path / "eg3d", eg3d)
    with pytest.raises(SystemExit) as caught:
        edit.main(["debug=tiny", f"generator={tmp_path / 'eg3d'}", f"output={tmp_path / 'edit'}"])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "geometry=sdf" in line
