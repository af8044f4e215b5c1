"""train_prior runs under debug=tiny, and wrong input gives one line and exit code 2."""

import pytest
from diffusers import ControlNetModel

from scripts import train_prior


def test_tiny_run_and_a_controlnet_on_top_of_it(dataset_folder, tmp_path):
    words = [f"data={dataset_folder}", "debug=tiny", "prior.resolution=16", "device=cpu"]
    base, output = tmp_path / "base", tmp_path / "output"
    train_prior.main([*words, f"output={base}"])
    assert (base / "config.yaml").is_file()
    train_prior.main(
        [*words, f"output={output}", "prior=controlnet", f"prior.base={base / 'model'}"]
    )
    controlnet = ControlNetModel.from_pretrained(output / "model" / "controlnet")
    assert controlnet.config.conditioning_embedding_out_channels == [16, 32]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=nowhere"], "data set not found: nowhere"),
        (["prior.base=nowhere"], "base nowhere is not a Stable Diffusion folder"),
        (["prior=controlnet"], "missing value, please give: prior.base=..."),
        (["resume=true"], "to resume from"),
        (["prior.diffusion.stepss=3"], "unknown option 'prior.diffusion.stepss'"),
    ],
)
def test_wrong_input_gives_one_line_and_exit_code_2(dataset_folder, tmp_path, fail, words, message):
    fixed = [f"data={dataset_folder}", f"output={tmp_path / 'out'}", "debug=tiny"]
    assert message in fail(train_prior.main, *fixed, "prior.resolution=16", *words)
