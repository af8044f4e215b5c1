"""Package definition: `pip install .` or, for development, `pip install -e .[dev]`.

`pip install .` compiles the CUDA kernels if it finds nvcc. If it does not, or if compiling fails,
they are compiled on first use, as they always are in an editable installation. With
MATE3D_OPS=kernels, installing without kernels is an error; MATE3D_OPS=pytorch leaves them out.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# Isolated builds do not search this folder; nothing imported from here needs PyTorch.
sys.path.insert(0, str(Path(__file__).parent))

from mate3d import __version__  # noqa: E402
from torch_utils.kernel_build.architectures import gpu_codes, wanted_architectures  # noqa: E402
from torch_utils.kernel_build.library import LIBRARY_NAME, compile_library  # noqa: E402
from torch_utils.kernel_build.toolchain import BuildError, Toolchain, find_toolchain  # noqa: E402

# Named one by one: a bare find_packages() would also install the tests. `datasets/` must stay a
# plain folder, because a package of that name would hide the well-known library.
PACKAGES = ("torch_utils", "mate3d", "training", "editing", "scripts", "configs")

OPS = os.environ.get("MATE3D_OPS") or "auto"
if OPS not in ("auto", "kernels", "pytorch"):
    raise SystemExit(f"MATE3D_OPS={OPS}; allowed are auto, kernels, pytorch")


def _wanted_toolchain() -> Toolchain | None:
    """Return the compilers, or None if kernels are not wanted or tools are missing."""
    if OPS == "pytorch":
        return None
    try:
        return find_toolchain()
    except BuildError as error:
        if OPS == "kernels":
            raise SystemExit(f"MATE3D_OPS=kernels, but {error}") from error
        print(f"not compiling the CUDA kernels: {error}")
        return None


class BuildKernels(build_ext):
    """Compiles the kernels into the package, unless the installation is editable."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # Stored now, because setuptools changes `inplace` while it runs.
        self.is_in_place = bool(self.inplace)

    def build_extension(self, ext: Extension) -> None:
        if self.is_in_place or self.inplace or self.editable_mode:
            return
        folder = Path(self.get_ext_fullpath(ext.name)).parent
        # Leftovers of an earlier build must not be shipped if this one fails.
        shutil.rmtree(folder, ignore_errors=True)
        try:
            compile_library(folder, TOOLCHAIN, gpu_codes(TOOLCHAIN, wanted_architectures()))
        except BuildError as error:
            if OPS == "kernels":
                raise
            print(f"installing without compiled CUDA kernels: {error.reason}")
            shutil.rmtree(folder, ignore_errors=True)

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1], LIBRARY_NAME))


TOOLCHAIN = _wanted_toolchain()
# `optional` lets the installation continue without the file.
EXTENSIONS = [Extension("torch_utils.ops.prebuilt.kernels", [], optional=True)] if TOOLCHAIN else []

setup(
    name="mate3d",
    version=__version__,
    description="Mask- and text-guided editing of 3D portraits",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(
        include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]
    ),
    package_data={
        "configs": ["**/*.yaml"],
        "mate3d": ["label_sets/*.yaml", "outputs/templates/*.j2", "assets/**"],
        "torch_utils": ["ops/csrc/*"],
    },
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildKernels},
    # The kernels do not depend on Python, so one wheel with them serves all later versions.
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if EXTENSIONS else {},
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "numpy>=1.26",
        "filelock>=3.12",
        "safetensors>=0.4",
        "diffusers>=0.30",
        "transformers>=5.6",
        "tokenizers>=0.20",
        "accelerate>=0.33",
        "hydra-core>=1.3",
        "pyyaml>=6.0",
        "tensorboard>=2.16",
        "tqdm>=4.66",
        "imageio[ffmpeg]>=2.34",
        "scikit-image>=0.22",
        "scipy>=1.11",
        "trimesh>=4.6",
        "torchmetrics>=1.3",
        "huggingface_hub>=1.31",
        "pillow>=10.0",
        "jinja2>=3.1",
        "webdataset>=0.2.100",
    ],
    extras_require={
        "dev": [
            *("pytest>=8.0", "pytest-xdist>=3.6", "ruff>=0.9", "psutil>=5.9"),
            "hydra-submitit-launcher>=1.2",
        ],
        # Many runs on Slurm: `--multirun hydra/launcher=slurm`.
        "slurm": ["hydra-submitit-launcher>=1.2"],
        # FID and KID with Inception features.
        "inception": ["torch-fidelity>=0.3"],
        # Curves of trainings online: `train.wandb=PROJECT`.
        "wandb": ["wandb>=0.19"],
        # Adam with averages in 8 bits, for training ControlNets.
        "8bit": ["bitsandbytes>=0.43"],
        # A face detector that finds landmarks, for photos without masks or known cameras.
        "photos": ["opencv-python-headless>=4.8"],
        # nvcc of PyTorch's CUDA release; the CUDA 12 packages have none.
        "kernels": ["cuda-toolkit[nvcc]>=13; platform_system == 'Linux'"],
    },
    entry_points={
        "console_scripts": [
            "mate3d-prepare-data=scripts.prepare_data:main",
            "mate3d-train=scripts.train:main",
            "mate3d-train-prior=scripts.train_prior:main",
            "mate3d-train-features=scripts.train_features:main",
            "mate3d-edit=scripts.edit:main",
            "mate3d-evaluate=scripts.evaluate:main",
            "mate3d-generate=scripts.generate:main",
            "mate3d-convert-checkpoint=scripts.convert_checkpoint:main",
            "mate3d-download-weights=scripts.download_weights:main",
            "mate3d-doctor=torch_utils.doctor:main",
        ]
    },
)
