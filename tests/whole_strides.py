"""What a dense run sees of an image, by hand."""

import numpy as np


def whole_strides(image: np.ndarray, stride: int = 32) -> np.ndarray:
    """Cuts the sides of (H, W, 3) to whole strides, at both ends alike."""
    (top, height), (left, width) = (
        (side % stride // 2, side // stride * stride) for side in image.shape[:2]
    )
    return image[top : top + height, left : left + width]
