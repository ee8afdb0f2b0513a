"""Make the demo's pictures, ``vgg_mm/demo/images.zip``, from Debian's openclipart.

Get the package's PNGs (public domain) and run the script on them::

    apt-get download openclipart-png
    dpkg -x openclipart-png_*.deb openclipart
    python tools/data/make_demo.py openclipart/usr/share/openclipart/png

Pictures that look alike, and pictures whose file names say that they are variants of one drawing,
form a group, and a group never straddles train and val. The archive is the same, byte for byte, on
the same release of Pillow.
"""

from __future__ import annotations

import argparse
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from vgg_mm import demo
from vgg_mm.writing import replacing

FOLDERS = {
    "animals": "animals",
    "flags": "signs_and_symbols/flags",
    "food": "food",
    "maps": "geography",
    "people": "people",
    "plants": "plants",
    "tools": "tools",
    "vehicles": "transportation",
}
SKIPPED_FOLDERS = (
    *("aiga-symbols", "roadsigns", "stickmen"),
    # Not what their class says.
    *("astronomy", "clothing", "jewelry", "semaphore"),
)
SKIPPED_STEMS = (
    # "Linked image not found" is drawn in them.
    *("duck_yellow_ii_kurt", "stylized_yoga_person", "tux_didier_fabert"),
    # Not for every audience.
    *("sexy_lady", "stripper"),
    # Not what their class says: in animals,
    *("cymru_flag", "lucchetto"),
    # maps,
    *("arkansas", "ayers_rock", "calebasse", "canada_umbrella", "earth_and_north", "eclipse"),
    *("eiffel_tower", "garmin", "gps_", "magelan", "moon_", "mount", "southen_cross", "spyglass"),
    *("symbol_for_a_church", "teide", "war_drum"),
    # people,
    *("architetto_francesco", "baby_bottle", "chat_icon", "fingerprint", "fire_engine"),
    *("safety_pin", "samoa_tatoo", "van_gogh_s_room", "wedding_sign"),
    # plants,
    *("cayennepepper", "human_humain", "potato"),
    # tools,
    *("kexi", "little_boy", "route_", "smoke"),
    # vehicles.
    *("ampel", "anchor", "grain_elevator", "knot_", "lighthouse", "little_tan_suitcase"),
    "street_sign",
)

SIDE = 128  # pixels
FILLED = 112  # of them, by the drawing: 64 of the 73 that the demo rescales to
MAX_UPSCALE = 2
MAX_ASPECT = 4
MAX_SOURCE_PIXELS = 40_000_000
MIN_STD = 20  # grey levels in the liveliest channel; with less a picture is as good as blank
MAX_PER_CLASS = 300
VAL_SHARE = 0.2
JPEG_QUALITY = 88

# Correlations of two thumbnails. Twins in two classes are dropped, what looks alike is grouped.
TWINS, ALIKE = 0.97, 0.86
# From so many letters on, a name that begins another one is taken for its truncation.
MIN_TRUNCATED = 12
# Words that tell variants of a drawing apart, and the one author who signs only some of them.
IGNORED_WORDS = set(
    "amp bw black white blue green red pink yellow grey gray color colour coloured grigia grigio"
    " outline contour shaded shading simple with without boundaries ganson".split()
)


@dataclass(eq=False)
class Picture:
    """A candidate: ``image`` is RGB, a square of SIDE pixels."""

    path: Path
    label: str
    image: Image.Image

    def thumbnail(self) -> np.ndarray:
        """(16, 16, 3) float64 of mean 0 and norm 1, without the white margins."""
        ink = self.image.convert("L").point(lambda grey: 255 * (grey < 250))
        small = self.image.crop(ink.getbbox()).resize((16, 16), Image.Resampling.BOX)
        values = np.asarray(small, np.float64)
        values -= values.mean()
        return values / np.linalg.norm(values).clip(1e-9)


def find_files(source: Path) -> list[tuple[Path, str]]:
    """Returns each class's files and its name; files listed in a skipped folder are out."""
    skipped = {file.name for name in SKIPPED_FOLDERS for file in source.rglob(f"{name}/**/*.png")}
    return [
        (file, label)
        for label, folder in FOLDERS.items()
        for file in sorted((source / folder).rglob("*.png"))
        if file.name not in skipped and not file.name.startswith(SKIPPED_STEMS)
    ]


def load(path: Path, label: str) -> Picture | str:
    """Returns the picture in the middle of a white square, or why it is left out."""
    with Image.open(path) as source:
        if source.width * source.height > MAX_SOURCE_PIXELS:
            return "too large"
        rgba = source.convert("RGBA")
    box = rgba.getchannel("A").getbbox()
    if box is None:
        return "blank"
    rgba = rgba.crop(box)
    short, long = sorted(rgba.size)
    if long * MAX_UPSCALE < FILLED:
        return "too small"
    if long > MAX_ASPECT * short:
        return "too long"
    margin = round(long * (SIDE / FILLED - 1) / 2)
    side = long + 2 * margin
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(rgba, ((side - rgba.width) // 2, (side - rgba.height) // 2))
    image = square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    if np.asarray(image).std(axis=(0, 1)).max() < MIN_STD:
        return "blank"
    return Picture(path, label, image)


def load_all(files: list[tuple[Path, str]], left_out: Counter) -> list[Picture]:
    """Returns the usable pictures, each once a class; counts in ``left_out`` why others are not."""
    pictures, seen = [], set()
    for path, label in track(files, "pictures"):
        picture = load(path, label)
        if isinstance(picture, str):
            left_out[picture, label] += 1
        elif (key := (label, picture.image.tobytes())) in seen:
            left_out["repeated", label] += 1
        else:
            seen.add(key)
            pictures.append(picture)
    return pictures


def likeness(pictures: list[Picture]) -> np.ndarray:
    """Returns (n, n): the correlation of every two pictures, or of one with the other mirrored."""
    thumbs = np.stack([picture.thumbnail() for picture in pictures])
    flat, mirrored = (t.reshape(len(t), -1) for t in (thumbs, thumbs[:, :, ::-1]))
    return np.maximum(flat @ flat.T, flat @ mirrored.T)


def stem_key(stem: str) -> str:
    """Returns what the variants of a drawing share: ``cone2_bw_ganson`` -> ``cone_ganson``."""
    words = re.findall("[a-z]+", stem.lower())
    kept = [word for word in words if len(word) > 2 and word not in IGNORED_WORDS]
    return "_".join(kept or words)


def stem_pairs(pictures: list[Picture]) -> Iterable[tuple[int, int]]:
    """Yields pairs whose stems have one key, or one key cut short."""
    keys = [stem_key(picture.path.stem) for picture in pictures]
    head, *others = sorted(range(len(keys)), key=keys.__getitem__)
    for item in others:
        cut_short = len(keys[head]) >= MIN_TRUNCATED and keys[item].startswith(keys[head])
        if keys[item] == keys[head] or cut_short:
            yield head, item
        else:
            head = item


def connect(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Returns the groups into which ``pairs`` connect the items 0 ... count - 1 (union-find)."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for first, second in pairs:
        parent[root(first)] = root(second)
    groups: dict[int, list[int]] = {}
    for item in range(count):
        groups.setdefault(root(item), []).append(item)
    return list(groups.values())


def take(groups: list[list[Picture]], budget: dict[str, int]) -> list[list[Picture]]:
    """Returns the groups, in their order, that fit whole into the budget of pictures a class."""
    taken, counts = [], Counter()
    for group in groups:
        new = counts + Counter(picture.label for picture in group)
        if all(new[label] <= budget[label] for label in new):
            taken.append(group)
            counts = new
    return taken


def count_labels(groups: list[list[Picture]]) -> Counter:
    """Returns the number of pictures a class."""
    return Counter(picture.label for group in groups for picture in group)


def split(source: Path, left_out: Counter) -> dict[str, list[list[Picture]]]:
    """Returns the groups of ``train`` and ``val``; counts in ``left_out`` what is in neither."""
    pictures = load_all(find_files(source), left_out)
    alike = likeness(pictures)
    labels = np.array([picture.label for picture in pictures])
    ambiguous = ((alike >= TWINS) & (labels[:, None] != labels)).any(axis=1)
    left_out.update(("in two classes", label) for label in labels[ambiguous])

    kept = np.flatnonzero(~ambiguous)
    pictures = [pictures[item] for item in kept]
    pixel_pairs = np.argwhere(np.triu(alike[np.ix_(kept, kept)] >= ALIKE, k=1))
    items = connect(len(pictures), [*pixel_pairs, *stem_pairs(pictures)])
    groups = [[pictures[item] for item in group] for group in items]
    # The order of hashes is a fixed one that spreads over the folders.
    groups.sort(key=lambda group: sha256(group[0].path.stem.encode()).digest())

    chosen = take(groups, dict.fromkeys(FOLDERS, MAX_PER_CLASS))
    left_out.update(
        {("over the limit", k): n for k, n in (count_labels(groups) - count_labels(chosen)).items()}
    )
    val = take(chosen, {k: round(VAL_SHARE * n) for k, n in count_labels(chosen).items()})
    in_val = set(map(id, val))
    return {"train": [group for group in chosen if id(group) not in in_val], "val": val}


def encode(image: Image.Image) -> bytes:
    """Returns the image as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def write(splits: dict[str, list[list[Picture]]], out: Path) -> None:
    """Writes the archive with members ``train|val/<class>/<stem>.jpg``, whole or not at all."""
    members: dict[str, Image.Image] = {}
    for name, groups in splits.items():
        for picture in (picture for group in groups for picture in group):
            member = f"{name}/{picture.label}/{picture.path.stem}"
            while member in members:
                member += "_"
            members[member] = picture.image
    with replacing(out) as file, zipfile.ZipFile(file, "w") as archive:
        for member, image in sorted(members.items()):
            info = zipfile.ZipInfo(f"{member}.jpg")  # dated 1980-01-01
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, encode(image))


def main() -> None:
    """Parses the command line, writes the archive, prints the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the package's folder of PNGs")
    out = demo.ARCHIVE
    parser.add_argument("--out", type=Path, default=out, help="the archive (default: %(default)s)")
    args = parser.parse_args()
    for folder in FOLDERS.values():
        if not (args.source / folder).is_dir():
            parser.error(f"{args.source} has no folder {folder}: is it openclipart-png's 'png'?")

    Image.MAX_IMAGE_PIXELS = None  # `load` looks at the size before it decodes
    left_out: Counter = Counter()
    splits = split(args.source, left_out)
    write(splits, args.out)

    reasons = sorted({reason for reason, _ in left_out})
    columns = ["class", *splits, *reasons]
    table = [count_labels(groups) for groups in splits.values()]
    table += [Counter({label: left_out[reason, label] for label in FOLDERS}) for reason in reasons]
    rows = [[label, *(column[label] for column in table)] for label in FOLDERS]
    for row in [columns, *rows, ["all", *(column.total() for column in table)]]:
        print("".join(f"{cell:>{len(name) + 2}}" for cell, name in zip(row, columns, strict=True)))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
