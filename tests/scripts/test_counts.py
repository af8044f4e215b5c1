"""What benchmarks count, operations and bytes, is what there is; Stable Diffusion has its sizes."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mate3d.diffusion.networks import PriorNetworks
from tests.editing.conftest import TINY_CONFIG
from training.prior.models import make_tiny_networks
from training.prior.options import PriorArchitecture

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = PriorArchitecture(
    vae_channels=(8, 16),
    vocabulary_size=600,
    max_tokens=8,
    text_width=16,
    text_layers=1,
    unet_channels=(8, 16),
    attention_levels=(False, True),
    attention_heads=2,
    control_channels=(8, 16),
)


@pytest.fixture
def benchmarks(monkeypatch) -> SimpleNamespace:
    """The modules, which import each other as scripts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_edit
    import bench_prior
    import count_memory
    import fake_training
    import gpu_work
    import parts
    import sd15

    modules = bench_edit, bench_prior, count_memory, fake_training, gpu_work, parts, sd15
    return SimpleNamespace(**{module.__name__: module for module in modules})


def make_networks(resolution: int = 32) -> PriorNetworks:
    torch.manual_seed(0)
    networks = make_tiny_networks(TINY, ["a cat"], resolution)
    for module in networks.modules().values():
        module.eval().requires_grad_(False)
    return networks


def num_bytes(network: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in network.parameters())


def test_networks_have_the_published_numbers_of_parameters(benchmarks):
    networks = benchmarks.sd15.make_networks(torch.float16, device="meta")
    for name, module in networks.modules().items():
        count = sum(weight.numel() for weight in module.parameters())
        assert count == benchmarks.sd15.NUM_PARAMETERS[name], name
        assert {weight.dtype for weight in module.parameters()} == {torch.float16}
    assert networks.tokenizer.model_max_length == 77
    tokens = networks.tokenizer(["a cat"], padding="max_length").input_ids
    embeds = networks.text_encoder(torch.tensor(tokens, device="meta"))[0]
    assert embeds.shape == (1, 77, networks.unet.config.cross_attention_dim)


def test_bytes_are_those_of_tensors_that_are_alive(benchmarks):
    before = torch.zeros(1000)
    with benchmarks.parts.LiveMemory() as memory:
        first = before + 1
        second = first.view(10, 100)[2:] * 2  # a view takes nothing, the product 3200
        del first
        third = second + 1
        assert memory.live() == 4000 + 3200 + 3200
        del second, third
        assert memory.live() == 4000
        weight = torch.ones(1000, requires_grad=True)
        result = weight.exp().exp().sum()
        # Both results of exp are kept for the gradient; the sum takes 4 bytes.
        assert memory.live() == 4000 + 4000 + 8000 + 4
        result.backward()
        del result
        assert memory.live() == 4000 + 4000 + 4000  # the gradient
    assert memory.peak > memory.live()


def test_parts_exclude_each_other_and_gradients_of_a_method_are_a_part(benchmarks):
    parts = benchmarks.parts.Parts(torch.device("cpu"), with_operations=True)
    network = SimpleNamespace(encode=nn.Conv2d(3, 4, 3, bias=False).forward)
    parts.watch(network, "encode", "encode")
    parts.watch_gradient(network, "encode", "encode_backward")
    image = torch.rand(1, 3, 10, 10, requires_grad=True)
    with parts.counting("rest"):
        product = network.encode(image * 2).flatten(1) @ torch.ones(256, 5)
        product.sum().backward()
    convolution, matrix = 2 * 3 * 4 * 9 * 64, 2 * 256 * 5
    # Backward passes of the convolution are to its input and to its weights.
    wanted = {"encode": convolution, "encode_backward": 2 * convolution, "rest": 2 * matrix}
    assert dict(parts.operations) == wanted
    assert all(seconds > 0 for seconds in parts.seconds.values())


def test_an_operation_takes_as_long_as_its_arithmetic_or_its_bytes(benchmarks):
    gpu = benchmarks.gpu_work.GPU(fp32=1e9, tf32=4e9, half=8e9, memory=1, bandwidth=1e6)
    part = "matrix"
    log = benchmarks.gpu_work.WorkLog(lambda: part)
    matrix, image, kernel = torch.ones(1000, 1000), torch.ones(1, 2, 12, 12), torch.ones(4, 2, 3, 3)
    with log:
        matrix @ matrix
        part = "convolution"
        torch.conv2d(image, kernel)
        part = "sum"
        matrix[0].expand(500, 1000) + matrix[:500]
    moved = {"matrix": 12_000_000, "convolution": 4 * (288 + 72 + 400), "sum": 4 * (1000 + 10**6)}
    assert {each.part: each.moved for each in log.entries} == moved
    assert [each.kind for each in log.entries] == ["fp32", "tf32", "fp32"]
    assert [each.flop for each in log.entries] == [2 * 10**9, 2 * 8 * 9 * 100, 0]
    rate = benchmarks.gpu_work.BANDWIDTH_EFFICIENCY * gpu.bandwidth
    seconds = benchmarks.gpu_work.seconds_by_part(log.entries, gpu)
    assert seconds == pytest.approx({name: each / rate for name, each in moved.items()})
    faster = dataclasses.replace(gpu, bandwidth=1e12)
    seconds = benchmarks.gpu_work.seconds_by_part(log.entries, faster)
    assert seconds["matrix"] == pytest.approx(2 / benchmarks.gpu_work.EFFICIENCY["fp32"])
    assert seconds["sum"] == benchmarks.gpu_work.HOST_SECONDS


SLOW = pytest.mark.slow


@SLOW
def test_an_iteration_is_counted_by_step_and_in_proportion_to_its_images(benchmarks):
    words = ["experiment=small_cat", "debug=tiny", "augment=ada", "loss.density_smoothness=0.25"]
    count, in_process = benchmarks.fake_training.count_iteration, benchmarks.count_memory.in_process
    small, large = (in_process(count, words, size, 0) for size in (4, 8))
    assert set(small.intervals) < {each.part for each in small.entries}
    assert small.intervals["r1_step"] == 4
    for name in ("flop", "moved"):
        assert large.per_image(name, 8) == pytest.approx(small.per_image(name, 4), rel=0.3)
    assert large.held == small.held < small.peak < large.peak


@SLOW
def test_training_is_counted_without_values_as_with_values(benchmarks):
    options = {"accumulation": 1, "checkpointing": True}
    networks = make_networks()
    count, in_process = benchmarks.count_memory.count_training, benchmarks.count_memory.in_process
    counted = in_process(count, make_networks, 2, **options)
    # Weights, average and two moments.
    held = num_bytes(networks.unet) + 4 * num_bytes(networks.controlnet)
    assert counted["held_gib"] * 2**30 == pytest.approx(held, abs=40_000)

    # Counting operations as well keeps nothing alive.
    parts = benchmarks.parts.Parts(torch.device("cpu"), with_operations=True)
    memory = parts.memory
    stage, compute_losses = benchmarks.bench_prior.make_training(networks, 2, **options)
    modules = networks.unet, stage.networks, stage.averages
    memory.add((weight for module in modules for weight in module.parameters()), "weights")
    with parts.counting("step"):
        stage.advance(compute_losses)
        memory.restart()
        stage.advance(compute_losses)
    assert counted["peak_gib"] * 2**30 == pytest.approx(memory.peak, rel=0.02)


def measure_tiny_step() -> tuple[dict, dict, dict]:
    """Measure a step with values, and count generator and prior; patches stay in this process."""
    import bench_edit
    import count_memory

    from editing.guidance.controlnet import ControlNetGuidance

    bench_edit.FACE512, count_memory.NoPrior.image_size = TINY_CONFIG, 32
    words = {"preset": "sd15", "edits": "cdgt", "neural_resolution": "16"}
    guidance = ControlNetGuidance(make_networks())
    measured = bench_edit.measure_step(bench_edit.DEFAULTS | words, guidance)
    generator = count_memory.count_generator(words)
    prior = count_memory.count_prior(lambda: ControlNetGuidance(make_networks()), "cdgt")
    return measured, generator, prior


@SLOW
def test_a_step_of_an_edit_is_measured_and_its_parts_are_counted(benchmarks):
    measured, generator, prior = benchmarks.count_memory.in_process(measure_tiny_step)
    encoding, gradient = (measured["parts"][name] for name in ("encode", "encode_backward"))
    # Weights are frozen, so the backward pass is as long as the forward pass.
    assert gradient["tflop"] == pytest.approx(encoding["tflop"], rel=0.1)
    assert sum(part["tflop"] for part in measured["parts"].values()) == pytest.approx(
        measured["tflop"], rel=0.01
    )
    counted = generator["meanwhile_gib"] + prior["weights_gib"] + prior["work_gib"]
    assert max(encoding["peak_gib"], gradient["peak_gib"]) == pytest.approx(counted, rel=0.15)
