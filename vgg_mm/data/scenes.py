"""Data sets of scenes (:mod:`vgg_mm.demo`), in the layouts that real data have."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from vgg_mm import demo
from vgg_mm.data.folders import Folders
from vgg_mm.data.transforms import scale_range
from vgg_mm.errors import UserError
from vgg_mm.paper import Side
from vgg_mm.processes import in_processes
from vgg_mm.registry import DATASETS

INFO = "scenes.json"  # in a whole data set's folder: its settings
QUALITY = 90  # of the JPEGs


@dataclass(frozen=True)
class Settings:
    """What a data set of scenes is; a subclass may put more behind the things and write more.

    Attributes:
        images: How many of ``train``, ``val`` and ``test``.
        classes: How many, of the 1,000 of :func:`vgg_mm.demo.things` the first.
        seed: A scene is a function of it, the split and the scene's number.
        short: The short side in pixels, or the ends of a range: a scene draws its own in steps of 3
            pixels, so that from a multiple of 3 all are 4:3 to the pixel.
    """

    images: tuple[int, int, int] = (16_000, 3_200, 0)
    classes: int = 64
    seed: int = 0
    short: Side = 80

    def __post_init__(self) -> None:
        """Checks them."""
        most = len(demo.things())
        if min(self.images) < 0 or not any(self.images):
            raise UserError(f"scenes: images={self.images} must be 0 or more, and some above 0.")
        if not 1 <= self.classes <= most:
            raise UserError(f"scenes: classes={self.classes} must be 1 to {most}.")
        if self.shorts[0] < demo.MIN_SHORT:
            raise UserError(f"scenes: short={self.short} must be {demo.MIN_SHORT} pixels or more.")
        if self.seed < 0:
            raise UserError(f"scenes: seed={self.seed} must be 0 or more.")

    @cached_property
    def names(self) -> list[str]:
        """The classes, in the order of their labels, which is that of their names."""
        return sorted(demo.things()[: self.classes])

    @cached_property
    def shorts(self) -> range:
        """The short sides that scenes have."""
        low, high = scale_range(self.short, "scenes: short")
        return range(low, high + 1, 3)

    def photo(self, rng: np.random.Generator, split: str) -> np.ndarray | None:
        """A photograph for the background of a split's scene, BGR uint8, if there are any."""
        return None

    def write(self, root: Path, stem: str, scene: demo.Scene) -> Any:
        """Writes a scene's files, ``stem`` being ``train/CLASS/train_000000``."""
        write_image(root / f"{stem}.JPEG", scene.image, cv2.IMWRITE_JPEG_QUALITY, QUALITY)
        _write_xml(root / f"Annotations/{stem}.xml", scene)

    def finish(self, root: Path, split: str, written: Iterable[Any]) -> None:
        """Goes through what :meth:`write` returns of a split's scenes, as they are drawn."""
        for _ in written:
            pass


def draw_scenes(
    root: str | Path, settings: Settings | None = None, jobs: int | None = None
) -> Path:
    """Draws a data set of scenes at ``root`` on all cores, unless it is there, and returns it.

    It has ILSVRC's layout: ``train/CLASS/train_000000.JPEG``, ``val/...``, and in
    ``Annotations/train/CLASS/train_000000.xml`` the boxes as ILSVRC writes them. Labels count
    the classes in the order of their names; ``classes.txt`` lists them.

    Several processes may call this at once: one draws. One that is killed leaves nothing at
    ``root``, and the next one starts again.

    Args:
        root: The folder.
        settings: What to draw; default: ``Settings()`` or, if ``root`` holds scenes, these.
        jobs: How many processes; default: one for each core.

    Raises:
        UserError: If ``root`` cannot be written, or holds something else.
    """
    root, wanted = Path(root), settings or Settings()
    if _is_there(root, settings):
        return root
    try:
        with _alone(root) as aside:
            if not _is_there(root, settings):
                _draw_all(aside, wanted, jobs or os.cpu_count() or 1)
                os.rename(aside, root)
    except OSError as error:
        raise UserError(
            f"The scenes cannot be drawn at '{root}': {error.strerror or error}. Choose a folder "
            "on a disk that you may write to and that has 200 MB free."
        ) from error
    return root


def _is_there(root: Path, settings: Settings | None) -> bool:
    """Whether ``root`` holds whole scenes, with these settings unless they are None."""
    if not os.path.lexists(root):
        return False
    remedy = "Remove it, or choose another folder."
    try:
        found = json.loads((root / INFO).read_text())
    except (OSError, ValueError):
        raise UserError(f"'{root}' exists and is no data set of scenes. {remedy}") from None
    wanted = _as_json(settings) if settings else found
    if different := [
        f"{key} is {found.get(key)}"
        for key in wanted
        if (found.get(key) or None) != (wanted[key] or None)  # some tools' scenes have no extras
    ]:
        raise UserError(f"'{root}' holds other scenes: {', '.join(different)}. {remedy}")
    return True


def _as_json(settings: Settings) -> dict:
    return json.loads(json.dumps(asdict(settings)))


@contextmanager
def _alone(root: Path) -> Iterator[Path]:
    """An empty folder beside ``root``, for one process at a time; it goes if it was not moved."""
    import fcntl  # Unix has it, and the rest of the room works elsewhere too

    root.parent.mkdir(parents=True, exist_ok=True)
    aside = root.with_name(f".{root.name}.drawing")
    while True:
        aside.mkdir(exist_ok=True)
        lock = os.open(aside, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_open(aside, lock):
            break
        os.close(lock)  # who had it has moved or removed the folder
    try:
        for path in aside.iterdir():  # who had it was killed
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield aside
    finally:
        if _is_open(aside, lock):
            shutil.rmtree(aside)
        os.close(lock)


def _is_open(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _draw_all(root: Path, settings: Settings, jobs: int) -> None:
    for split, number in zip(demo.SPLITS, settings.images, strict=True):
        if number:
            for folder in (root / split, root / "Annotations" / split):
                for name in settings.names:
                    (folder / name).mkdir(parents=True)
            work = partial(_draw_one, root, settings, split)
            written = in_processes(work, range(number), jobs, f"Drawing scenes: {split}")
            settings.finish(root, split, written)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in settings.names))
    (root / INFO).write_text(json.dumps(_as_json(settings), indent=1) + "\n")


def _draw_one(root: Path, settings: Settings, split: str, index: int) -> Any:
    rng = np.random.default_rng([settings.seed, demo.SPLITS.index(split), index])
    name = demo.things()[index % settings.classes]
    shorts = settings.shorts
    short = shorts[rng.integers(len(shorts))] if len(shorts) > 1 else shorts[0]
    scene = demo.draw(rng, name, split, short, settings.photo(rng, split))
    return settings.write(root, f"{split}/{name}/{split}_{index:06}", scene)


def write_image(path: Path, image: np.ndarray, *options: int) -> None:
    """Writes an image in the format that its ending tells; ``options`` are OpenCV's."""
    _, data = cv2.imencode(path.suffix, image, options)
    path.write_bytes(data.tobytes())


def _write_xml(path: Path, scene: demo.Scene) -> None:
    """A box for each thing, in pixels that are counted from 0, both ends included."""

    def add(parent: ElementTree.Element, **values: object) -> None:
        for key, value in values.items():
            ElementTree.SubElement(parent, key).text = str(value)

    name, (height, width, depth) = path.parent.name, scene.image.shape
    xml = ElementTree.Element("annotation")
    add(xml, folder=name, filename=path.stem)
    add(ElementTree.SubElement(xml, "size"), width=width, height=height, depth=depth)
    add(xml, segmented=0)
    for thing in scene.things:
        one = ElementTree.SubElement(xml, "object")
        add(one, name=name, pose="Unspecified", truncated=int(thing.visible < 0.95), difficult=0)
        keys = ("xmin", "ymin", "xmax", "ymax")
        add(ElementTree.SubElement(one, "bndbox"), **dict(zip(keys, thing.box, strict=True)))
    ElementTree.indent(xml)
    ElementTree.ElementTree(xml).write(path)


@DATASETS.register_module()
class Scenes(Folders):
    """The scenes at ``data_root``, which are drawn there on first use.

    Args:
        data_root: Their folder. Other scenes than the default's: draw them before, with
            ``tools/data/make_scenes.py``.
        kwargs: Further arguments of :class:`Folders`.
    """

    def __init__(self, data_root: str = "data/demo", **kwargs) -> None:
        if not os.path.exists(data_root) and kwargs.keys().isdisjoint(("classes", "metainfo")):
            kwargs["metainfo"] = dict(classes=Settings().names)  # known before they are drawn
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Lists the images, which are drawn before if they are not there."""
        draw_scenes(self.data_root)
        return super().load_data_list()
