"""The page of ``vgg-mm app``: an image is dropped, and a net says what it sees and where."""

from __future__ import annotations

import os
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import cv2
import gradio as gr
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from tools.analysis.drawing import resized
from tools.analysis.score_maps import place
from vgg_mm import demo
from vgg_mm.api import Net
from vgg_mm.data import read_image, rescale
from vgg_mm.errors import UserError
from vgg_mm.models import VGG, VGGHead

VIRIDIS = colormaps["viridis"]
SHOWN = 5  # classes with bars
SIDE = 320  # the shorter one of shown images, in pixels
BOX = (198, 40, 40)
CSS = """
.gradio-container { max-width: 1100px !important; margin: auto !important }
.wrong { color: var(--error-text-color); font-weight: 600; margin: 0; overflow-wrap: anywhere }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 12px }
.maps figure { margin: 0 }
.maps img { width: 100%; border-radius: var(--radius-sm) }
.maps figcaption { font-size: var(--text-sm) }
.scale { display: flex; align-items: center; gap: 8px; font-size: var(--text-sm) }
.scale i { flex: 1; height: 8px; border-radius: 4px; background: linear-gradient(90deg, SHADES) }
""".replace("SHADES", ", ".join(to_hex(VIRIDIS(i / 8)) for i in range(9)))


class Found(NamedTuple):
    """What was found in an image."""

    rgb: np.ndarray  # as it is shown, (H, W, 3)
    maps: list[tuple[np.ndarray, tuple[int, int]]]  # at each Q (classes, h, w), and its size (H, W)
    boxes: dict[int, tuple[np.ndarray, float]]  # of classes, in pixels of rgb, and their ratings


class Looking:
    """A net that looks at images, and what it says in words and images.

    Attributes:
        names: The classes' names, each once.
        views: ``dense``, ``crops`` or both: what the net can do.
    """

    def __init__(self, net: Net) -> None:
        """Raises UserError if the net names no classes."""
        net.evaluation()
        self.net = net
        twice = {name for name, number in Counter(net.classes).items() if number > 1}
        self.names = [f"{x} ({i})" if x in twice else x for i, x in enumerate(net.classes)]
        head = net.namer.head
        self.has_maps = isinstance(net.namer.backbone, VGG) and isinstance(head, VGGHead)
        # What looks at crops where the net itself looks for boxes.
        self.namer = net
        if net.localizer:
            crop = head.fc6.kernel_size[0] * net.namer.backbone.stride
            self.namer = Net(net.namer, net.config, net.classes, dict(crop_size=crop), net.pipeline)
        self.views = [view for view in ("dense", "crops") if self._can(view)]

    def _can(self, view: str) -> bool:
        try:
            return bool(self.namer.evaluation(view))
        except UserError:
            return False

    def classes(self, path: str, view: str, scales: Sequence[int]) -> np.ndarray:
        """The probabilities (classes,) of an image by a view, averaged over the scales."""
        return self.namer.posteriors(path, view, scales)[0].mean(0).numpy()

    def found(self, path: str, scales: Sequence[int]) -> Found:
        """Where the classes are."""
        image = read_image(path)
        rgb = rescale(image, SIDE)[..., ::-1]
        maps = self.net.score_map(path, scales) if self.has_maps else []
        sizes = (rescale(image, Q).shape[:2] for Q in scales)
        guesses = self.net.look(path, scales)[1] if self.net.localizer else []
        boxes = {g.label: (resized(g.box, image.shape, rgb.shape), g.rating) for g in guesses}
        return Found(
            rgb,
            [(posteriors.numpy(), size) for posteriors, size in zip(maps, sizes, strict=False)],
            {label: found for label, found in boxes.items() if np.isfinite(found[0]).all()},
        )

    def drawn(self, found: Found, label: int) -> str:
        """A class's score map over the image at each Q, with its box, as HTML."""
        box, rating = found.boxes.get(label, (None, 0.0))
        images = []  # RGB, and what stands below
        if box is not None:
            images.append((found.rgb.copy(), f"the box; its rating is {rating:.2f}"))
        for posteriors, size in found.maps:
            cells = posteriors[label]
            windows = "x".join(map(str, cells.shape))
            title = f"Q = {min(size)}: {windows} windows, up to {cells.max():.0%}"
            images.append((self._overlaid(found.rgb, cells, size), title))
        if box is not None:
            x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
            for image, _ in images:
                for width, colour in ((5, (255, 255, 255)), (3, BOX)):
                    cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), colour, width)
        legend = '<div class="scale">0%<i></i>100%</div>' if found.maps else ""
        return f'<div class="maps">{"".join(_figure(*each) for each in images)}</div>{legend}'

    def _overlaid(self, rgb: np.ndarray, cells: np.ndarray, seen: tuple[int, int]) -> np.ndarray:
        """A map (h, w) of an image that was ``seen`` as (H, W), over that image in grey."""
        net = self.net.namer
        placed = place(cells, *seen, net.head.fc6.kernel_size[0], net.backbone.stride)
        size = rgb.shape[1::-1]
        there = cv2.resize(np.isfinite(placed).astype(np.float32), size) > 0.5
        values = cv2.resize(np.nan_to_num(placed), size, interpolation=cv2.INTER_LINEAR)
        grey = np.repeat(rgb.mean(-1, keepdims=True), 3, -1)
        colours = 255 * VIRIDIS(values)[..., :3]
        return np.where(there[..., None], 0.4 * grey + 0.6 * colours, grey).round().astype(np.uint8)


def _figure(rgb: np.ndarray, caption: str) -> str:
    """An image and what it is, as HTML that needs no other file."""
    data = b64encode(cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes()).decode()
    image = f'<img src="data:image/jpeg;base64,{data}" alt="">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def scales_of(net: Net) -> list[int]:
    """The test scales Q to choose from: the net's own, and from its least on the paper's ratios."""
    return sorted({*net.scales, *(round(min(net.scales) * ratio) for ratio in (1, 1.5, 2))})


def make_page(net: Net, name: str, scales: Sequence[int] | None = None) -> gr.Blocks:
    """The page of a net, whose weights have a ``name``.

    Args:
        net: The net.
        name: What the page calls its weights.
        scales: The test scales Q to choose from; by default :func:`scales_of`.

    Raises:
        UserError: If the net names no classes.
    """
    looking = Looking(net)
    scales = sorted({*(scales or scales_of(net))})
    chosen = [Q for Q in scales if Q in net.scales] or scales[:1]
    titles = dict(dense="Dense", crops=_crops(looking.namer))

    def empty(message: str = "") -> dict:
        """Nothing is shown but a message."""
        cleared: dict[Any, Any] = {bars[view]: gr.Label(None, label=titles[view]) for view in bars}
        if looking.has_maps or net.localizer:
            cleared |= {maps: "", chooser: None, state: None}
        return {told: alert(message), **cleared}

    def alert(message: str) -> gr.HTML:
        text = f'<p class="wrong" role="alert">{escape(message)}</p>'
        return gr.HTML(text, visible=bool(message))

    def look(path: str | None, scales: list[int]) -> Iterator[dict]:
        """An image was given, or a scale chosen: the views one after the other."""
        if path is None:
            yield empty()
            return
        if not scales:
            yield empty("Choose one scale Q at least.")
            return
        scales = sorted(scales)
        try:
            for view in looking.views:
                started = perf_counter()
                posterior = looking.classes(path, view, scales)
                title = f"{titles[view]}, {perf_counter() - started:.2f} s"
                best = (-posterior).argsort(kind="stable")[:SHOWN]
                said = {looking.names[i]: float(posterior[i]) for i in best}
                shown = {bars[view]: gr.Label(said, label=title)}
                if view == looking.views[0] and (looking.has_maps or net.localizer):
                    found = looking.found(path, scales)
                    shown |= {
                        state: found,
                        chooser: int(best[0]),
                        maps: looking.drawn(found, int(best[0])),
                    }
                yield {told: alert(""), **shown}
        except UserError as error:
            # The message names the upload's copy, which is not the user's.
            yield empty(str(error).replace(path, Path(path).name))

    def show(found: Found | None, label: int | None) -> str:
        """A class was chosen."""
        return "" if found is None or label is None else looking.drawn(found, label)

    with gr.Blocks(title=f"vgg_mm: {name}", analytics_enabled=False, delete_cache=(600, 3600)) as p:
        gr.Markdown(f"# vgg_mm\n{_about(net, name)}")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = gr.Image(
                    type="filepath", sources=["upload", "clipboard"], label="Image", height=300
                )
                # Pillow would refuse what it cannot read before the package can say why.
                image.preprocess = lambda data: data and data.path
                told = gr.HTML(visible=False, padding=False)
                which = gr.CheckboxGroup(
                    scales,
                    value=chosen,
                    label="Scales Q",
                    info="The image's shortest side in pixels; several are averaged.",
                )
                if name == "demo":
                    files = sorted(map(str, demo.EXAMPLES.glob("*.jpg")))
                    gr.Examples(files, image, label="Drawn scenes that the net has not seen")
            with gr.Column(scale=3, min_width=280):
                with gr.Row():
                    bars = {
                        view: gr.Label(label=titles[view], num_top_classes=SHOWN, elem_id=view)
                        for view in looking.views
                    }
                outputs: list[Any] = [told, *bars.values()]
                if looking.has_maps or net.localizer:
                    choices = [(each, i) for i, each in enumerate(looking.names)]
                    chooser = gr.Dropdown(choices, value=None, label="Where is")
                    maps = gr.HTML(elem_id="maps", padding=False)
                    state = gr.State(None)
                    outputs += [chooser, maps, state]
                    chooser.input(show, [state, chooser], maps, show_progress="hidden")
        gr.on(
            [image.change, which.change], look, [image, which], outputs, trigger_mode="always_last"
        )
    return p


def _crops(net: Net) -> str:
    grid, flip = (net.protocol.get(key, default) for key, default in (("grid", 5), ("flip", True)))
    return f"{grid * grid * (2 if flip else 1)} crops"


def _about(net: Net, name: str) -> str:
    """Which net and weights, in Markdown."""
    conv = getattr(net.namer.backbone, "conv1_1", None)
    width = f", {conv.out_channels} channels in conv1_1" if conv else ""
    kind = f"Net {net.arch} of Table 1{width}" if conv else net.arch
    lines = [f"{kind}; {len(net.classes)} classes; weights: `{name}`."]
    if name == "demo":
        lines[0] += f" {net.measured[:1].upper()}{net.measured[1:]}." if net.measured else ""
        lines += [
            "It knows 64 drawn things and nothing else. For one that knows ImageNet: "
            "`vgg-mm app D --weights torchvision://vgg16`"
        ]
    return "<br>".join(lines)


def serve(page: gr.Blocks, host: str, port: int | None) -> None:
    """Serves a page until it is interrupted, with nothing from and for anywhere else.

    Raises:
        OSError: If the port is taken, or the host is not this machine.
    """
    # Gradio asks the page for itself, which a proxy of the environment would take for the network.
    for key in ("NO_PROXY", "no_proxy"):
        os.environ[key] = ",".join(filter(None, [os.environ.get(key), host, "127.0.0.1,localhost"]))
    look = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(block_info_text_color="*neutral_500", block_info_text_color_dark="*neutral_300")
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        theme=look,
        css=CSS,
    )
