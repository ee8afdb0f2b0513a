"""What an installation lacks, or has twice, and the line that mends it."""

from __future__ import annotations

import re
import warnings
from importlib.metadata import PackageNotFoundError, version

_CV2 = "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
# What an error at import says, what the matter is, and what mends it.
MENDS = {
    r"lib(GL|gthread|X11|SM|Xext)\b": ("OpenCV lacks a screen's libraries", _CV2),
    r"No module named 'cv2'|module 'cv2' has no": ("OpenCV is missing, or half removed", _CV2),
    r"No module named 'mmcv'": (
        "mmcv is missing",
        "pip install mmcv-lite==2.1.0 (for detection and segmentation the full mmcv)",
    ),
    r"No module named 'mmcv\.(ops|_ext)": (
        "detection and segmentation need the full mmcv",
        "pip uninstall -y mmcv mmcv-lite && pip install mmcv==2.1.0",
    ),
    r"No module named 'pkg_resources'": (
        "setuptools is too new for OpenMMLab's pkg_resources",
        "pip install 'setuptools>=71,<81'",
    ),
    r"'pkgutil' has no attribute 'ImpImporter'": (
        "setuptools is too old for this Python",
        "pip install 'setuptools>=71,<81'",
    ),
    r"operator torchvision::\w+ does not exist": (
        "torchvision is of another build than torch",
        "pip uninstall -y torch torchvision && pip install torch torchvision, both from one index",
    ),
    r"^NoneType takes no arguments": (
        "mmpretrain does not start beside transformers 5",
        "pip uninstall -y transformers, without which vgg_mm reads its folders too",
    ),
}

# What mmcv-lite, which has no ops, says at every start.
warnings.filterwarnings("ignore", "Fail to import ``MultiScaleDeformableAttention``")


def advice(error: Exception) -> str | None:
    """What mends the installation that makes ``error``; None if it is no such error."""
    if isinstance(error, ImportError | AttributeError | TypeError | RuntimeError):
        for says, (matter, line) in MENDS.items():
            if re.search(says, str(error)):
                return f"{matter} ({error}). Mend it with: {line}"
    return None


def check() -> None:
    """Warns if mmcv and mmcv-lite are both installed, for their files have the same names."""
    try:
        both = " and ".join(f"{name} {version(name)}" for name in ("mmcv", "mmcv-lite"))
    except PackageNotFoundError:
        return
    warnings.warn(
        f"{both} are both installed, and each has overwritten files of the other. Mend it with: "
        "pip uninstall -y mmcv mmcv-lite && pip install mmcv-lite==2.1.0 (or the full mmcv)",
        stacklevel=2,
    )
