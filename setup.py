"""Installs vitfm: `pip install -e .`, with `[test]` for the tests and `[tpu]` or `[cuda]` for accelerators."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "vitfm" / "__init__.py").read_text())[1]

setup(
    name="vitfm",
    version=VERSION,
    description="Pretrain, evaluate, adapt and export image foundation models in JAX/Flax",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["vitfm", "vitfm.*"]),
    package_data={"vitfm.data": ["assets/*", "emoji/*", "emoji/*/*"], "vitfm.metrics": ["assets/*"]},
    install_requires=[
        "array_record>=0.8",
        "chex>=0.1.91",
        "dm-pix>=0.4.4",
        "flax>=0.12",
        "fsspec>=2024.6",
        "grain>=0.2.15",
        "importlib_resources",  # TFDS imports it without asking for it.
        "jax>=0.10",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "ml_collections>=1.1",
        "numpy>=2.0",
        "opencv-python-headless>=4.10",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=10",  # tensorboardX writes pictures with it without asking for it.
        "rich>=13.7",
        "safetensors>=0.4",
        "simplejpeg>=1.8",
        "scipy>=1.12",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.9",
        "tokenizers>=0.21",
        "typeguard>=4.4",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10"],
        "cuda": ["jax[cuda13]>=0.10"],
        # The parity tests compare with torch. It is pinned because torchvision is built for exactly one torch.
        "test": [
            "apache-beam>=2.60",
            "hypothesis>=6.100",
            "imagecodecs>=2024.6",
            "ipykernel>=6.29",
            "lightly>=1.5.20",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "open_clip_torch>=3.2",
            "pyarrow>=17",
            "pydicom>=3.0",
            "pylibjpeg[all]>=2.0",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.7",
            "pyyaml>=6",
            "ruff>=0.6",
            "tifffile>=2024.6",
            "timm>=1.0.20",
            "torch==2.13.0",
            "torchvision==0.28.0",
            "transformers>=5.0",
            "webdataset>=1.0",
            "usearch>=2.16",
        ],
        "parquet": ["pyarrow>=17"],  # Sources of it, and the evaluator `features`, which writes it.
        "tiff": ["imagecodecs>=2024.6", "tifffile>=2024.6"],  # TIFF, GeoTIFF and their codecs.
        "dicom": ["pydicom>=3.0", "pylibjpeg[all]>=2.0"],
        "beam": ["apache-beam>=2.60"],  # `python -m vitfm.data prepare` on many machines.
        "gcs": ["gcsfs>=2024.6"],  # Paths gs://...
        "s3": ["s3fs>=2024.6"],  # Paths s3://...
        "search": ["usearch>=2.16"],  # `python -m vitfm.data duplicates --run` on more than 50,000 images.
        "tools": ["resvg-py>=0.1"],  # tools/build_emoji.py draws SVG with it.
    },
    entry_points={"console_scripts": ["vitfm=vitfm.main:console"]},
)
