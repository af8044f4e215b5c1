"""What a GPU does in an iteration: it runs whole networks, and never waits for a number.

The meta device shows it without a GPU: its tensors have no values, so every read fails.
"""

from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mate3d.cameras import make_camera
from mate3d.network import synthesis as networks
from mate3d.network.discriminator import DiscriminatorSizes
from torch_utils import batch_random
from torch_utils.ops import bias_act, execution
from training import synthesis
from training.augmentation import Augmenter, AugmentSettings
from training.build_state import build_state
from training.iteration import IterationInputs, adversarial_iteration
from training.optimization.ema import update_average
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import schedule_values
from training.step_inputs import BatchParts, RealBatch, StepContext

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def make_iteration(tiny_generator, tiny_settings):
    """Return a function that builds a state and returns one iteration with every term and step."""
    config = replace(tiny_generator.config, learn_beta=True)
    settings = replace(
        tiny_settings,
        loss=replace(
            tiny_settings.loss,
            density_consistency=1e-4,
            class_color_consistency=0.1,
            color_consistency=0.1,
            camera_noise=1.0,
        ),
        schedule=replace(tiny_settings.schedule, style_mixing_probability=0.5),
        optimizer=replace(tiny_settings.optimizer, max_gradient_norm=1.0),
    )
    sizes = DiscriminatorSizes(channel_base=64, channel_max=8, mapping_layers=1)
    augment = partial(Augmenter(AugmentSettings(mode="fixed")), probability=0.5)

    def make(device, precision="fp32"):
        with device:
            cameras = torch.randn(6, 25)
            real = RealBatch(
                torch.randn(2, 3, 16, 16), torch.randn(2, 6, 16, 16), torch.randn(2, 25)
            )
        state = build_state(config, sizes, settings, cameras, device)
        for module in state.modules().values():
            module.requires_grad_(False)
        inputs = IterationInputs(
            real,
            cameras,
            schedule_values(settings.schedule, 0),
            TrainingPrecision(precision, device),
            BatchParts(2),
            augment,
        )

        def iterate():
            adversarial_iteration(state, inputs, settings)
            update_average(state.average, state.networks.generator, 0.9)

        return iterate

    return make


class NoWaiting(TorchDispatchMode):
    """Fails on a copy from the host for which a GPU would wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[0] if function is torch.ops.aten._to_copy.default else args[1]
            is_waiting = not (kwargs or {}).get("non_blocking", any(args[2:]))
            assert source.device == result.device or not is_waiting, f"copies {source.shape}"
        return result


@pytest.fixture
def meta():
    """The meta device, taken for one with kernels; it has no random numbers and no autocast."""
    patches = (
        mock.patch.object(batch_random, "_generator", lambda *_: torch.Generator()),
        mock.patch.object(execution, "wants_kernels", lambda x, impl: impl == "auto"),
        mock.patch.object(bias_act, "wants_kernels", lambda x, impl: impl == "auto"),
        mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext()),
        mock.patch.object(torch, "is_autocast_enabled", lambda *_: False),
    )
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield torch.device("meta")


def test_nothing_of_an_iteration_is_read_and_no_copy_is_waited_for(make_iteration, meta):
    iterate = make_iteration(meta)
    with NoWaiting():
        iterate()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_a_gpu_does_not_wait_in_an_iteration(make_iteration, precision):
    iterate = make_iteration(CUDA, precision)
    iterate()  # Compiles and loads the kernels.
    torch.cuda.set_sync_debug_mode("error")
    try:
        iterate()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_networks_run_as_written_on_a_gpu_and_samples_are_skipped_where_most_are(tiny_generator):
    assert networks.works_in_bands(CPU) and not networks.works_in_bands(CUDA)
    config, skips = tiny_generator.config, synthesis.marches_sparsely
    for beta, is_sharp in ((0.1, False), (0.03, False), (0.005, True), (0.001, True)):
        assert skips(config, beta, CPU)
        assert skips(config, beta, CUDA) == is_sharp
    fog = replace(config.rendering, density_activation="softplus_shifted")
    assert not skips(replace(config, rendering=fog), 0.001, CUDA)


@pytest.mark.parametrize("with_segmentation", [False, True])
def test_fakes_are_the_same_both_ways(
    tiny_generator, tiny_settings, monkeypatch, with_segmentation
):
    for name, weight in tiny_generator.named_parameters():
        if name.endswith("noise_strength"):
            weight.fill_(0.1)
    schedule = schedule_values(tiny_settings.schedule, 0)

    def fakes():
        z_dim, cameras = tiny_generator.config.z_dim, make_camera(torch.linspace(-0.5, 0.5, 6))
        latents, random = BatchParts(2).latents((0, 1), 0, z_dim, cameras)
        context = StepContext(schedule, random=random)
        return synthesis.generate_fakes(
            tiny_generator, latents, context, with_segmentation=with_segmentation
        )

    on_cpu = fakes()
    for module in (networks, synthesis):
        monkeypatch.setattr(module, "works_in_bands", lambda _: False)
    on_gpu = fakes()
    for name in ("image", "image_raw", "segmentation", "segmentation_raw"):
        torch.testing.assert_close(getattr(on_gpu, name), getattr(on_cpu, name), msg=name)
