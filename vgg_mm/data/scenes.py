"""Data sets of scenes (:mod:`vgg_mm.demo`), in the layouts that real data have."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from vgg_mm import demo
from vgg_mm.data.files import find_images
from vgg_mm.data.folders import Folders
from vgg_mm.data.images import read_image
from vgg_mm.data.transforms import rescale
from vgg_mm.errors import UserError
from vgg_mm.processes import in_processes
from vgg_mm.registry import DATASETS

INFO = "scenes.json"  # in a whole data set's folder: its settings
LAYOUTS = ("coco", "masks")
QUALITY = 90  # of the JPEGs


@dataclass(frozen=True)
class Settings:
    """What a data set of scenes is.

    Attributes:
        images: How many of ``train``, ``val`` and ``test``.
        classes: How many, of the 1,000 of :func:`vgg_mm.demo.things` the first.
        seed: A scene is a function of it, the split and the scene's number.
        short: The short side in pixels.
        layouts: Of ``LAYOUTS``, what to write besides ILSVRC's.
        backgrounds: A folder of photographs, or ``''``. One in four is val's, one test's.
    """

    images: tuple[int, int, int] = (16_000, 3_200, 0)
    classes: int = 64
    seed: int = 0
    short: int = 80
    layouts: tuple[str, ...] = ()
    backgrounds: str = ""

    def __post_init__(self) -> None:
        """Checks them.

        Raises:
            UserError: If a setting is impossible.
        """
        most = len(demo.things())
        if min(self.images) < 0 or not any(self.images):
            raise UserError(f"scenes: images={self.images} must be 0 or more, and some above 0.")
        if not 1 <= self.classes <= most:
            raise UserError(f"scenes: classes={self.classes} must be 1 to {most}.")
        if self.short < demo.MIN_SHORT:
            raise UserError(f"scenes: short={self.short} must be {demo.MIN_SHORT} pixels or more.")
        if self.seed < 0:
            raise UserError(f"scenes: seed={self.seed} must be 0 or more.")
        if unknown := {*self.layouts} - {*LAYOUTS}:
            raise UserError(f"scenes: layouts {unknown} are none of {LAYOUTS}.")
        if "masks" in self.layouts and self.classes > 254:
            raise UserError(
                f"scenes: a mask's pixel has 8 bits, 0 is the background and 255 means 'ignore': "
                f"classes={self.classes} must be 254 at most, or leave out the masks."
            )
        if self.backgrounds and len(_photos(self.backgrounds)) < 4:
            raise UserError(
                f"scenes: {self.backgrounds} holds fewer than 4 images, and each split needs "
                "its own."
            )

    @cached_property
    def names(self) -> list[str]:
        """The classes, in the order of their labels, which is that of their names."""
        return sorted(demo.things()[: self.classes])


def draw_scenes(
    root: str | Path, settings: Settings | None = None, jobs: int | None = None
) -> Path:
    """Draws a data set of scenes at ``root`` on all cores, unless it is there, and returns it.

    It has ILSVRC's layout: ``train/CLASS/train_000000.JPEG``, ``val/...``, and in
    ``Annotations/train/CLASS/train_000000.xml`` the boxes as ILSVRC writes them; with
    ``coco`` besides ``coco/instances_train.json``, boxes and masks (RLE) of files named from
    ``root``, and with ``masks`` ``masks/train/CLASS/train_000000.png``: 0 is the background, a
    class its label + 1. Labels count the classes in the order of their names; ``classes.txt``
    lists them.

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
    """Whether ``root`` holds whole scenes, with these settings unless they are None.

    Raises:
        UserError: If it holds something else.
    """
    if not os.path.lexists(root):
        return False
    remedy = "Remove it, or choose another folder."
    try:
        found = json.loads((root / INFO).read_text())
    except (OSError, ValueError):
        raise UserError(f"'{root}' exists and is no data set of scenes. {remedy}") from None
    wanted = _as_json(settings) if settings else found
    if different := [
        f"{key} is {found.get(key)}" for key in wanted if found.get(key) != wanted[key]
    ]:
        raise UserError(f"'{root}' holds other scenes: {', '.join(different)}. {remedy}")
    return True


def _as_json(settings: Settings) -> dict:
    return json.loads(json.dumps(asdict(settings)))


@contextmanager
def _alone(root: Path) -> Iterator[Path]:
    """An empty folder beside ``root``, for one process at a time; it goes if it was not moved."""
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
        if not number:
            continue
        for name in settings.names:
            for folder in _folders(settings):
                (root / folder / split / name).mkdir(parents=True)
        work = partial(_draw_one, root, settings, split)
        drawn = in_processes(work, range(number), jobs, f"Drawing scenes: {split}")
        if "coco" in settings.layouts:
            _write_coco(root / "coco", split, settings, drawn)
        else:
            for _ in drawn:
                pass
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in settings.names))
    (root / INFO).write_text(json.dumps(_as_json(settings), indent=1) + "\n")


def _folders(settings: Settings) -> list[str]:
    return ["", "Annotations", *(["masks"] if "masks" in settings.layouts else [])]


def _draw_one(root: Path, settings: Settings, split: str, index: int) -> dict:
    """Draws a scene and writes its files; returns what COCO's file is to say of it."""
    rng = np.random.default_rng([settings.seed, demo.SPLITS.index(split), index])
    name = demo.things()[index % settings.classes]
    photo = _photo(rng, settings, split) if settings.backgrounds else None
    scene = demo.draw(rng, name, split, settings.short, photo)
    stem = f"{split}/{name}/{split}_{index:06}"
    label = settings.names.index(name)
    _write(root / f"{stem}.JPEG", scene.image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    _write_xml(root / f"Annotations/{stem}.xml", name, scene)
    if "masks" in settings.layouts:
        seen = np.any([thing.mask for thing in scene.things], 0)
        _write(root / f"masks/{stem}.png", (seen * (label + 1)).astype(np.uint8))
    if "coco" not in settings.layouts:
        return {}
    return {
        "file_name": f"{stem}.JPEG",
        "size": scene.image.shape[:2],
        "label": label,
        "things": [(thing.box, int(thing.mask.sum()), rle(thing.mask)) for thing in scene.things],
    }


def _photo(rng: np.random.Generator, settings: Settings, split: str) -> np.ndarray:
    photos = _photos(settings.backgrounds)
    own = {"train": photos[0::4] + photos[1::4], "val": photos[2::4], "test": photos[3::4]}[split]
    return _shrunk(own[rng.integers(len(own))], 4 * settings.short)


@lru_cache(200)
def _shrunk(photo: str, short: int) -> np.ndarray:
    image = read_image(photo)
    return rescale(image, short, photo) if min(image.shape[:2]) > short else image


def _write(path: Path, image: np.ndarray, options: Sequence[int] = ()) -> None:
    _, data = cv2.imencode(path.suffix, image, options)
    path.write_bytes(data.tobytes())


@cache
def _photos(folder: str) -> list[str]:
    return find_images(folder)


def _write_xml(path: Path, name: str, scene: demo.Scene) -> None:
    """A box for each thing, in pixels that are counted from 0, both ends included."""

    def add(parent: ElementTree.Element, **values: object) -> None:
        for key, value in values.items():
            ElementTree.SubElement(parent, key).text = str(value)

    height, width, depth = scene.image.shape
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


def _write_coco(folder: Path, split: str, settings: Settings, drawn: Iterator[dict]) -> None:
    images: list[dict] = []
    annotations: list[dict] = []
    for number, scene in enumerate(drawn, 1):
        height, width = scene["size"]
        image = {"id": number, "file_name": scene["file_name"], "width": width, "height": height}
        images.append(image)
        for (xmin, ymin, xmax, ymax), area, counts in scene["things"]:
            one = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": scene["label"] + 1,
                "bbox": [xmin, ymin, xmax - xmin + 1, ymax - ymin + 1],
                "area": area,
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": counts},
            }
            annotations.append(one)
    names = [{"id": i, "name": name} for i, name in enumerate(settings.names, 1)]
    folder.mkdir(exist_ok=True)
    with open(folder / f"instances_{split}.json", "w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": names}, file)


def rle(mask: np.ndarray) -> str:
    """A mask, (H, W) bool, as COCO's compressed run lengths.

    Runs go down the columns, of 0 and of 1 in turn, and from the third on are told by their
    difference to the one before the last. A number is written from its lowest five bits up, each
    group with a sixth bit that says whether there are more, as the character of the group + 48.
    """
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    runs = np.diff(ends, prepend=0).tolist()
    text = []
    for i, run in enumerate(runs):
        rest, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            group, rest = rest & 31, rest >> 5
            more = rest != (-1 if group & 16 else 0)
            text.append(chr(group + (32 if more else 0) + 48))
    return "".join(text)


@DATASETS.register_module()
class Scenes(Folders):
    """The scenes at ``data_root``, which are drawn there on first use.

    Args:
        data_root: Their folder. Other scenes than the default's: draw them before, with
            ``tools/data/make_scenes.py``.
        kwargs: Further arguments of :class:`Folders`.
    """

    def __init__(self, data_root: str = "data/demo", **kwargs) -> None:
        draw_scenes(data_root)
        super().__init__(data_root=data_root, **kwargs)
