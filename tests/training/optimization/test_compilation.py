"""Compiled networks train as those written, under the same names."""

import pytest
import torch

from mate3d.network.discriminator import Discriminator, DiscriminatorConfig
from training.optimization.compilation import compile_networks, not_compiled
from training.optimization.ema import make_average


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    config = DiscriminatorConfig(
        resolution=8, channel_base=32, channel_max=8, mapping_layers=1, stddev_group_size=2
    )
    return Discriminator(config)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 3, 8, 8), (2, 3, 4, 4), (2, 25))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def gradients(network, inputs):
    network.zero_grad(set_to_none=True)
    value = torch.nn.functional.softplus(network(*inputs)).sum()
    value.backward()
    return [value.detach(), *(parameter.grad for parameter in network.parameters())]


def test_compiled_networks_keep_names_and_copies_stay_as_written(tiny_generator, discriminator):
    names = list(tiny_generator.state_dict()), list(discriminator.state_dict())
    compile_networks(tiny_generator, discriminator)
    assert (list(tiny_generator.state_dict()), list(discriminator.state_dict())) == names
    average = make_average(tiny_generator)
    assert tiny_generator.backbone._compiled_call_impl is not None
    assert average.backbone._compiled_call_impl is None


@pytest.mark.slow
def test_compiled_discriminator_trains_as_written(tiny_generator, discriminator, inputs):
    expected = gradients(discriminator, inputs)
    compile_networks(tiny_generator, discriminator)
    counter = torch._dynamo.utils.counters
    counter.clear()
    found = gradients(discriminator, inputs)
    assert counter["stats"]["unique_graphs"] > 0
    assert not counter["graph_break"]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_superresolution_trains_as_written(tiny_generator):
    generator = torch.Generator().manual_seed(0)
    ws = torch.randn(2, tiny_generator.num_ws, 16, generator=generator)
    features = torch.randn(2, 8, 8, 8, generator=generator)
    network = tiny_generator.superresolution.requires_grad_(True)

    def run():
        network.zero_grad(set_to_none=True)
        image = network(features[:, :3], features, ws)
        image.square().mean().backward()
        return [image.detach(), *(parameter.grad for parameter in network.parameters())]

    expected = [value.clone() for value in run() if value is not None]
    compile_networks(tiny_generator)
    found = [value for value in run() if value is not None]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_penalties_on_gradients_run_not_compiled(tiny_generator, discriminator, inputs):
    def penalty():
        discriminator.zero_grad(set_to_none=True)
        image = inputs[0].clone().requires_grad_()
        with not_compiled():
            logits = discriminator(image, *inputs[1:])
        (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
        gradient.square().sum().backward()
        return discriminator.head.fc.weight.grad

    expected = penalty()
    compile_networks(tiny_generator, discriminator)
    gradients(discriminator, inputs)
    torch.testing.assert_close(penalty(), expected)
