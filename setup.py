"""Package definition: `pip install .` or, for development, `pip install -e .[dev]`."""

from setuptools import find_packages, setup

# Named one by one: a bare find_packages() would install the tests too, and `datasets/` must stay
# a plain folder, since a package of that name would hide the well-known library.
PACKAGES = ("torch_utils", "mate3d", "training", "editing", "scripts", "configs")

setup(
    name="mate3d",
    version="0.1.0",
    description="Mask- and text-guided editing of 3D portraits",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(
        include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]
    ),
    package_data={"configs": ["**/*.yaml"]},
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "numpy>=1.26",
        "safetensors>=0.4",
        "diffusers>=0.30",
        "transformers>=5.0",
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
    ],
    extras_require={"dev": ["pytest>=8.0", "ruff>=0.9"]},
    entry_points={
        "console_scripts": [
            "mate3d-prepare-data=scripts.prepare_data:main",
            "mate3d-train=scripts.train:main",
            "mate3d-train-prior=scripts.train_prior:main",
            "mate3d-edit=scripts.edit:main",
            "mate3d-evaluate=scripts.evaluate:main",
            "mate3d-generate=scripts.generate:main",
            "mate3d-convert-checkpoint=scripts.convert_checkpoint:main",
            "mate3d-download-weights=scripts.download_weights:main",
        ]
    },
)
