"""Make the demo's cut-outs, ``vgg_mm/demo/cutouts.zip``, from Debian's openclipart.

Get the package's PNGs (public domain) and run the script on them::

    apt-get download openclipart-png
    dpkg -x openclipart-png_*.deb openclipart
    python tools/data/make_cutouts.py openclipart/usr/share/openclipart/png

A cut-out is one drawing with a transparent surrounding. No two that are kept look alike or are, by
their file names, variants of one drawing. What is clear and colourful becomes a class of scenes,
and of these each next one is the least like all before it: the first K are K that differ much. The
rest is for backgrounds and distractors, of which each split has its own. The archive is the same,
byte for byte, on the same release of Pillow.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from vgg_mm import demo
from vgg_mm.errors import UserError, run
from vgg_mm.writing import replacing

FOLDERS = (
    *("animals", "buildings", "computer", "containers", "decorations", "education", "electronics"),
    *("food", "geography/astronomy", "office", "people", "plants", "recreation", "science"),
    *("shapes/arrows", "shapes/stars", "signs_and_symbols", "tools", "transportation", "unsorted"),
)
# No drawings of one thing, not for every audience, somebody's mark or face; "linked image not
# found" is drawn in one.
SKIPPED = re.compile(
    "/flags/|semaphore|cards|domino|text|template|example|screenshot|wallpaper|stickmen|"
    "weapon|gun|pistol|rifle|grenade|knife|bomb|sword|missile|little_boy|bullet|cigar|smok|sexy|"
    "stripper|lady|bikini|bra_|underwear|lingerie|nude|marijuana|cannabis|hitler|nazi|swastik|"
    "ashtray|gravestone|blood|skull|religion|chav|finger|"
    "theme/apps|theme/mimetypes|tux|firefox|mozilla|gnome|kexi|debian|ubuntu|windows|linux|gimp|"
    "inkscape|logo|fedora|rpm|acroread|real_doc|amsn|kmenu|hdd_win|hdd_mac|emule|xmule|maya|gates|"
    "dave_pena|man_singing|otto_needs|bofish|samba|about_kde|nws_|tsunami|pimp|photo|grandpa|martin_luther|bad_guy|"
    "duck_yellow_ii_kurt"
)
# Words that tell variants of a drawing apart, and authors.
IGNORED_WORDS = set(
    "amp bw black white blue green red pink yellow grey gray color colour coloured grigia grigio"
    " outline contour shaded shading simple with without boundaries ganson icon mimetypes actions"
    " orange purple brown dark light architetto francesco roll rollandi the and".split()
)

SIDE, DISTRACTOR_SIDE = 144, 96  # the longest, in pixels
MIN_SOURCE_SIDE = 48
MAX_SOURCE_PIXELS = 40_000_000
MAX_ASPECT = 2.2
FILLED = 0.25, 0.95  # the share of its box that a cut-out covers; above is a rectangle
MIN_OPAQUE = 0.8  # of what is not transparent
MIN_STD = 12  # grey levels in the liveliest channel
THING_FILLED, THING_SATURATION, THING_ASPECT = 0.42, 0.25, 1.7
THUMB = 16  # pixels
ALIKE = 0.9  # the correlation of two thumbnails from which one of them goes
MAX_THINGS = 1000
DISTRACTORS = {"train": 200, "val": 100, "test": 100}
QUALITY = 80


@dataclass(eq=False)
class CutOut:
    """A candidate, RGBA, without transparent margins."""

    name: str
    image: Image.Image
    clear: bool  # enough for a class

    @property
    def thumbnail(self) -> np.ndarray:
        """(THUMB, THUMB, 4) of mean 0 and norm 1 over all: colours times alpha, alpha."""
        square = Image.new("RGBa", (max(self.image.size),) * 2)
        corner = [(square.width - side) // 2 for side in self.image.size]
        square.paste(self.image.convert("RGBa"), tuple(corner))
        values = np.asarray(square.resize((THUMB, THUMB), Image.Resampling.BOX), np.float32)
        values = values - values.mean((0, 1))
        return values / np.linalg.norm(values).clip(1e-9)


def load(path: Path, name: str) -> CutOut | str:
    """Returns the cut-out, or why it is left out."""
    with Image.open(path) as source:
        if source.width * source.height > MAX_SOURCE_PIXELS:
            return "too large"
        image = source.convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    if box is None:
        return "blank"
    image = image.crop(box)
    short, long = sorted(image.size)
    if long < MIN_SOURCE_SIDE:
        return "too small"
    if long > MAX_ASPECT * short:
        return "too long"
    image = shrunk(image, SIDE)
    alpha = np.asarray(image.getchannel("A"), np.float32) / 255
    filled = (alpha > 0.5).mean()
    if not FILLED[0] <= filled <= FILLED[1]:
        return "no cut-out"
    if (alpha > 0.9).sum() < MIN_OPAQUE * (alpha > 0.1).sum():
        return "hardly visible"
    colours = np.asarray(image.convert("RGB"), np.float32)[alpha > 0.5]
    if colours.std(0).max() < MIN_STD:
        return "blank"
    saturation = np.ptp(colours, axis=1).mean() / 255
    clear = filled >= THING_FILLED and saturation >= THING_SATURATION
    return CutOut(name, image, clear and long <= THING_ASPECT * short)


def load_all(source: Path, left_out: Counter) -> list[CutOut]:
    """Returns the candidates, one for each name; counts in ``left_out`` why others are not."""
    files = {file.name: file for folder in FOLDERS for file in (source / folder).rglob("*.png")}
    found: dict[str, CutOut] = {}
    for _, file in track(sorted(files.items()), "cut-outs"):
        name = short_name(file.stem)
        if SKIPPED.search(f"/{file.relative_to(source)}".lower()):
            left_out["skipped"] += 1
        elif name in found:
            left_out["variant"] += 1
        elif isinstance(cutout := load(file, name), str):
            left_out[cutout] += 1
        else:
            found[name] = cutout
    return list(found.values())


def short_name(stem: str) -> str:
    """Returns what the variants of a drawing share: ``cone2_bw_ganson`` -> ``cone``."""
    words = re.findall("[a-z]+", stem.lower())
    kept = [word for word in words if len(word) > 2 and word not in IGNORED_WORDS]
    return "_".join((kept or words or [stem])[:3])


def choose(cutouts: list[CutOut]) -> list[CutOut]:
    """Puts first what is clear; each next one is the least like all that were taken before it.

    What is too much like one of these is left out.
    """
    thumbs = np.stack([cutout.thumbnail for cutout in cutouts])
    flat, mirrored = (t.reshape(len(t), -1) for t in (thumbs, thumbs[:, :, ::-1]))
    alike = np.maximum(flat @ flat.T, flat @ mirrored.T)
    closest = alike.mean(0)  # to any that was taken; the first is the least like the average
    chosen: list[int] = []
    for wanted in (True, False):
        left = np.array([cutout.clear == wanted for cutout in cutouts])
        while left.any():
            best = int(np.where(left, closest, np.inf).argmin())
            if closest[best] >= ALIKE:
                break
            chosen.append(best)
            left[best] = False
            closest = np.maximum(closest, alike[best]) if len(chosen) > 1 else alike[best]
    return [cutouts[item] for item in chosen]


def rename(cutouts: list[CutOut]) -> None:
    """Cuts the names to two words, which leaves most authors out, but where that is taken."""
    taken = {cutout.name for cutout in cutouts}
    for cutout in cutouts:
        short = "_".join(cutout.name.split("_")[:2])
        if short not in taken:
            taken.add(short)
            cutout.name = short


def split(chosen: list[CutOut]) -> dict[str, list[CutOut]]:
    """Returns the cut-outs by what they are for: the classes in order, each split's distractors."""
    others = chosen[MAX_THINGS:]
    # In turn, so that what is drawn alike is in all splits alike; train has two shares.
    dealt = {"train": others[0::4] + others[1::4], "val": others[2::4], "test": others[3::4]}
    distractors = {part: dealt[part][:number] for part, number in DISTRACTORS.items()}
    return {"things": chosen[:MAX_THINGS]} | distractors


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """Returns the image with a longest side of ``side`` at most."""
    share = min(1, side / max(image.size))
    size = [max(1, round(x * share)) for x in image.size]
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def encode(image: Image.Image) -> bytes:
    """Returns the image as a WebP; the transparency is exact."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()


def write(parts: dict[str, list[CutOut]], out: Path) -> None:
    """Writes the archive with members ``things|train|val|test/NAME.webp``, in the lists' order."""
    with replacing(out) as file, zipfile.ZipFile(file, "w") as archive:
        for part, cutouts in parts.items():
            for cutout in track(cutouts, part):
                info = zipfile.ZipInfo(f"{part}/{cutout.name}.webp")  # dated 1980-01-01
                info.create_system = 3
                info.external_attr = 0o644 << 16
                side = SIDE if part == "things" else DISTRACTOR_SIDE
                archive.writestr(info, encode(shrunk(cutout.image, side)))


def main() -> None:
    """Parses the command line, writes the archive, prints the counts."""
    from tools.arguments import plain_parser

    parser = plain_parser(__doc__)
    parser.add_argument("source", type=Path, help="the package's folder of PNGs")
    out = demo.ARCHIVE
    parser.add_argument("--out", type=Path, default=out, help="the archive (default: %(default)s)")
    args = parser.parse_args()
    if missing := [folder for folder in FOLDERS if not (args.source / folder).is_dir()]:
        raise UserError(f"{args.source} has no folder {missing[0]}: is it openclipart-png's 'png'?")
    Image.MAX_IMAGE_PIXELS = None  # `load` looks at the size before it decodes
    left_out: Counter = Counter()
    cutouts = load_all(args.source, left_out)
    chosen = choose(cutouts)
    left_out["alike"] = len(cutouts) - len(chosen)
    rename(chosen)
    parts = split(chosen)
    write(parts, args.out)
    print(", ".join(f"{part} {len(cutouts)}" for part, cutouts in parts.items()))
    print("left out:", ", ".join(f"{reason} {n}" for reason, n in sorted(left_out.items())))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run(main)
