"""Draws docs/input.png: what is decoded of a tiled JPEG for one crop.

python docs/input.py
"""

from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vgg_mm.data.jpeg import Jpeg, Window
from vgg_mm.demo import draw as draw_scene
from vgg_mm.demo import things

HEIGHT, WIDTH, S, SIZE = 384, 512, 384, 224
CORNER = 70, 150  # of the window, in pixels of the source


def draw(out: Path) -> None:
    """Draws a scene, its restart intervals, a window and what is decoded."""
    scene = draw_scene(np.random.default_rng(7), things()[0], "train", HEIGHT)
    image = cv2.resize(scene.image, (WIDTH, HEIGHT))
    options = [cv2.IMWRITE_JPEG_RST_INTERVAL, 2, cv2.IMWRITE_JPEG_QUALITY, 90]
    data = cv2.imencode(".jpg", image, options)[1].tobytes()
    side = SIZE * min(HEIGHT, WIDTH) // S
    window = Window(*CORNER, CORNER[0] + side, CORNER[1] + side)
    cut = Jpeg.parse(data).cut(window)
    decoded = cv2.imdecode(np.frombuffer(cut.data, np.uint8), cv2.IMREAD_COLOR)
    y, x = window.top - cut.place.top, window.left - cut.place.left
    height, width = decoded.shape[:2]

    shown = np.full_like(image, 255) - (255 - image) // 4
    shown[y : y + height, x : x + width] = decoded
    figure = Figure(figsize=(7, 5.25), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(shown[..., ::-1])
    axes.hlines(np.arange(0, HEIGHT, 16) - 0.5, 0, WIDTH, color="#555555", lw=0.3)
    axes.vlines(np.arange(0, WIDTH, 32) - 0.5, 0, HEIGHT, color="#555555", lw=0.3)
    axes.add_patch(Rectangle((x, y), width, height, fill=False, ec="#0072b2", lw=2.5))
    axes.add_patch(Rectangle(CORNER[::-1], side, side, fill=False, ec="#d55e00", lw=2.5))
    style = dict(fontsize=13, bbox=dict(fc="white", ec="none", alpha=0.85))
    axes.text(CORNER[1] + 6, CORNER[0] + 20, "the window of one crop", color="#d55e00", **style)
    axes.text(x + 4, y + height + 18, "the intervals decoded", color="#0072b2", **style)
    axes.text(8, 24, "skipped", color="#555555", **style)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")
    figure.savefig(out)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
