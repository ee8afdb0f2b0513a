"""Packaging of vgg_mm; see README.md for what to install."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
SVM = ["scikit-learn", "joblib"]
REMOTE = ["fsspec", "aiohttp"]
WEIGHTS = ["h5py", "onnx", "onnxruntime", "onnxscript", "huggingface_hub"]
TEST = ["pytest", "pytest-xdist>=3.8", "piq", "pycocotools", "torchvision", "timm"]
TEST += ["setuptools>=71", *SVM, *WEIGHTS, *REMOTE]

setup(
    name="vgg_mm",
    version=re.search(r'__version__ = "(.+)"', (HERE / "vgg_mm/__init__.py").read_text())[1],
    description="VGG, the whole paper, as a plugin of the OpenMMLab stack",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["vgg_mm", "vgg_mm.*"]),
    package_data={
        "vgg_mm.data": ["imagenet_folders.txt"],
        "vgg_mm.demo": ["cutouts.zip", "README.md", "demo/*", "examples/*.jpg"],
        # Links to what lies at the top of the repository; a wheel gets the files.
        "vgg_mm": [
            "py.typed",
            ".mim/model-index.yml",
            ".mim/configs/**/*.py",
            ".mim/configs/*.yml",
            ".mim/tools/**/*.py",
            ".mim/tools/reproduce/page.html",
            ".mim/tools/**/*.sh",
        ],
    },
    entry_points={"console_scripts": ["vgg-mm=vgg_mm.cli.commands:main"]},
    # OpenCV is not listed: mmengine requires opencv-python, and who took its headless twin in its
    # place, which has the same files, would get both from any name written here. Nor is mmcv, of
    # which there are two as well: see "lite".
    install_requires=[
        "mmengine>=0.10.7",
        "mmpretrain>=1.2",
        "torch>=2.6",
        "torchvision",
        "numpy",
        "pillow>=11.3",  # AVIF headers
        "matplotlib",
        "rich",
        "markdown-it-py",
        "mat4py",
        "safetensors",  # the package's own net, and what Net.save writes
    ],
    extras_require={
        # mmcv without compiled ops; leave it out where the full mmcv is installed.
        "lite": ["mmcv-lite==2.1.0"],
        # What tools/weights/convert_weights.py and tools/weights/export.py want for other formats.
        "weights": WEIGHTS,
        # What tools/analysis/linear_svm.py fits with.
        "svm": SVM,
        # Shards on a server; s3fs, gcsfs and the like for what is no plain HTTP.
        "remote": REMOTE,
        "test": TEST,
        "dev": [*TEST, "mypy", "ruff"],
        "tensorboard": ["tensorboard"],
        # The pages of docs/ as a site, and its tests.
        "docs": [
            "mkdocs<2",
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=0.29",
            "nbconvert",
            "nbclient",
            "ipykernel",
            "playwright",
        ],
        # The page of tools/app/app.py.
        "app": ["gradio>=6"],
        # What benchmark.py input compares with.
        "peers": ["nvidia-dali-cuda130", "spdl", "simplejpeg"],
        # Detection and segmentation; a full mmcv comes first (docs/downstream.md).
        "downstream": ["mmdet>=3.3", "mmsegmentation>=1.2.2", "ftfy", "regex", "setuptools<81"],
    },
)
