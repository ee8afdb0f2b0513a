"""Lay out ILSVRC-2012 as the configs read it: ``data/imagenet/{train,val}/n01440764/*.JPEG``.

SRC is a folder with what you have of it, all or a part, packed or not: image-net.org's archives,
Kaggle's ``ILSVRC/Data/CLS-LOC`` with ``LOC_val_solution.csv``, a ``train`` of class folders or of
class tars, a ``val`` sorted or flat::

    python tools/data/prepare_imagenet.py SRC
    python tools/data/prepare_imagenet.py KAGGLE --link

It says what it found and what is missing, then unpacks or copies, which needs as much room again;
--link makes symbolic links to the images in folders, which need none, work across disks and from
read-only ones, and break when SRC moves. It can be stopped at any moment: the next run goes on
where it was.
"""

import csv
import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import mat4py
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from vgg_mm.errors import UserError, run

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
KAGGLE = "LOC_val_solution.csv"
MD5 = {
    TRAIN: "1d675b47d978889d74fa0da5fadfb00e",
    VAL: "29b22e2961454d5413ddabcf34fc5622",
    DEVKIT: "fa75699e90414af021442c21a62c3abf",
}
PAGE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
WNID = re.compile(r"n[0-9]{8}")
TRAIN_IMAGE = re.compile(r"n[0-9]{8}_[0-9]+\.(?i:jpe?g)")
VAL_IMAGE = re.compile(r"ILSVRC2012_val_[0-9]{8}\.(?i:jpe?g)")
IMAGES = {"train": TRAIN_IMAGE, "val": VAL_IMAGE}
ARCHIVES = {"train": TRAIN, "val": VAL}
SPLITS = {"train": "training", "val": "validation"}
FOLDERS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")  # below SRC
TAR_OVERHEAD = 1024  # bytes of header and padding that a tar spends on a file, at most
DISK_OVERHEAD = 1.03  # what the images take up on disk, relative to their tar


@dataclass(frozen=True)
class Counts:
    """What the data set holds; by default what ILSVRC-2012 does."""

    classes: int = 1000
    train: int = 1_281_167
    val_per_class: int = 50

    def totals(self) -> dict[str, int]:
        """Returns the images of each split."""
        return {"train": self.train, "val": self.classes * self.val_per_class}


@dataclass(frozen=True)
class Source:
    """Where the images of a split are.

    Attributes:
        path: An archive, or a folder of images, of class folders or of class tars.
        kind: ``archive``, ``images`` or ``class tars``.
        number: How many of these.
        size: Their bytes.
        whole: Whether all of the split can be there.
    """

    path: Path
    kind: str
    number: int
    size: int
    whole: bool


@contextmanager
def whole(archive: Path | str) -> Iterator[None]:
    """Turns the errors of reading a damaged ``archive`` into one that names it."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{archive} is damaged or cut short ({error}). Download it again; what is extracted"
            " stays, and running this again goes on from there."
        ) from error


def members(
    tar: tarfile.TarFile, known: Callable[[str], object]
) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yields the files of ``tar`` with their base names.

    Raises:
        UserError: Where a member is no plain file or its base name is not ``known``.
        tarfile.ReadError: Where the archive is damaged.
    """
    for member in tar:
        name = PurePosixPath(member.name).name
        if member.isfile() and known(name):
            yield member, name
        elif not member.isdir():
            raise UserError(f"{Path(tar.name).name} holds {member.name!r}: this is not ILSVRC-2012")
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a bad header for the end
        raise tarfile.ReadError(f"bad header at byte {tar.offset}")


def files(folder: Path | str, known: re.Pattern) -> Iterator[os.DirEntry]:
    """Yields the files of ``folder`` and of the class folders in it whose names are ``known``."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if known.fullmatch(entry.name) and entry.is_file():
                yield entry
            elif WNID.fullmatch(entry.name) and entry.is_dir():
                yield from files(entry.path, known)


def class_tars(folder: Path) -> list[Path]:
    """Returns the tars of classes in ``folder``, in the order of their names."""
    return sorted(path for path in folder.glob("n*.tar") if WNID.fullmatch(path.stem))


def find(src: Path, split: str, counts: Counts) -> Source | None:
    """Returns where the images of a split are: all of them in a folder, else an archive, else some.

    Args:
        src: The folder to look in and below.
        split: ``train`` or ``val``.
        counts: What the data set must hold.
    """
    archive, total = src / ARCHIVES[split], counts.totals()[split]
    names, found = (split, archive.stem, ""), []
    for folder in (src / path / name for name in names for path in FOLDERS):
        if folder.is_dir():
            sizes = [entry.stat().st_size for entry in files(folder, IMAGES[split])]
            tars = [path.stat().st_size for path in class_tars(folder) if split == "train"]
            for kind, each, wanted in (
                ("images", sizes, total),
                ("class tars", tars, counts.classes),
            ):
                if each:
                    found.append(Source(folder, kind, len(each), sum(each), len(each) >= wanted))
    if archive.is_file():
        found.append(Source(archive, "archive", 1, archive.stat().st_size, True))
    return next((source for source in found if source.whole), found[0] if found else None)


def find_labels(src: Path) -> Path | None:
    """Returns the development kit, packed or not, or Kaggle's table, in or around ``src``."""
    around = [*(src / path for path in FOLDERS), *src.parents[:4]]
    names = (DEVKIT, DEVKIT.removesuffix(".tar.gz"), KAGGLE)
    return next((f / name for name in names for f in around if (f / name).exists()), None)


def read_labels(path: Path, counts: Counts) -> dict[str, str]:
    """Returns the class folder (the WordNet ID) of each validation image, by the image's name.

    Args:
        path: The development kit, Kaggle's table, or validation images in class folders.
        counts: What the data set must hold.

    Raises:
        UserError: Where the file is damaged or does not hold what ``counts`` says.
    """
    if path.name == KAGGLE:
        labels = _kaggles_labels(path)
    elif path.name.startswith("ILSVRC2012_devkit"):
        labels = _devkits_labels(path)
    else:
        found = (Path(entry.path) for entry in files(path, VAL_IMAGE))
        labels = {f"{image.stem}.JPEG": image.parent.name for image in found}
    images = Counter(labels.values())
    if len(images) != counts.classes or set(images.values()) != {counts.val_per_class}:
        raise UserError(
            f"{path} lists {len(labels):,} validation images in {len(images):,} classes, not"
            f" {counts.val_per_class} in each of {counts.classes:,}: this is not ILSVRC-2012"
        )
    return labels


def _devkits_labels(devkit: Path) -> dict[str, str]:
    """The devkit numbers the classes in an order of its own, not that of the folders' names."""
    if devkit.is_dir():
        data = {path.name: path.read_bytes() for path in (devkit / "data").iterdir()}
    else:
        with whole(devkit), tarfile.open(devkit, "r:gz") as tar:
            data = {
                PurePosixPath(member.name).name: tar.extractfile(member).read()
                for member in tar
                if member.isfile()
            }
    try:
        table = mat4py.loadmat(io.BytesIO(data["meta.mat"]))["synsets"]
        leaves = [i for i, children in enumerate(table["num_children"]) if children == 0]
        folders = {table["ILSVRC2012_ID"][i]: WNID.fullmatch(table["WNID"][i])[0] for i in leaves}
        truth = data["ILSVRC2012_validation_ground_truth.txt"].split()
        labels = [folders[int(number)] for number in truth]
    except Exception as error:  # mat4py raises whatever a damaged file makes it stumble over
        raise UserError(f"{devkit}: its class tables cannot be read ({error!r})") from error
    return {f"ILSVRC2012_val_{i:08d}.JPEG": wnid for i, wnid in enumerate(labels, 1)}


def _kaggles_labels(table: Path) -> dict[str, str]:
    """A line an image: its name, and for each of its boxes the class and the corners."""
    labels = {}
    with open(table, newline="", encoding="utf-8-sig", errors="replace") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row or row[0] == "ImageId":
                continue
            name, wnids = f"{row[0]}.JPEG", set("".join(row[1:2]).split()[::5])
            wnid = wnids.pop() if len(wnids) == 1 else ""
            if not (VAL_IMAGE.fullmatch(name) and WNID.fullmatch(wnid)) or name in labels:
                raise UserError(
                    f"{table}, line {number}: {','.join(row)[:60]!r} is no image with its class, as"
                    " ILSVRC2012_val_00000001,n01751748 111 108 230 366"
                )
            labels[name] = wnid
    return labels


def measure(folder: Path) -> tuple[int, int]:
    """Returns how many images ``folder`` holds, and their bytes."""
    with os.scandir(folder) as entries:
        images = [entry for entry in entries if entry.name.endswith(".JPEG") and entry.is_file()]
    return len(images), sum(entry.stat().st_size for entry in images)


def measure_classes(split: Path) -> dict[str, tuple[int, int]]:
    """Returns what each class folder of ``split`` measures."""
    return {folder.name: measure(folder) for folder in split.glob("[!.]*") if folder.is_dir()}


class Layout:
    """The folder that is filled: an image appears there whole or not at all.

    A journal in it says which splits it began, and which classes' tars are unpacked. Images of
    other splits are someone else's: they count where they have the right size, and are never
    replaced.

    Args:
        root: The folder; made where it does not exist.
        labels: The class folder of each validation image, by the image's name; empty if unknown.
        link: Whether to link to images that are in folders, not to copy them.
    """

    def __init__(self, root: Path, labels: dict[str, str], link: bool = False):
        root.mkdir(parents=True, exist_ok=True)
        for left_over in root.glob(".prepare_imagenet.*.part"):
            left_over.unlink()
        self.root = root
        self.labels = labels
        self.classes = set(labels.values())
        self.link = link
        self.scratch = root / f".prepare_imagenet.{os.getpid()}.part"
        self.journal = root / ".prepare_imagenet.done"
        self.sizes = {split: measure_classes(root / split) for split in SPLITS}
        self.done = set(self.journal.read_text().splitlines()) if self.journal.exists() else set()
        if any(line.startswith("n") for line in self.done):  # classes, of a run before splits were
            self.done.add("train")
        self.own = {split for split in SPLITS if split in self.done or not self.sizes[split]}

    def check_space(self, sources: dict[str, Source]) -> None:
        """Raises UserError if the disk cannot take what is left of the sources' bytes."""
        left = 0
        for split, source in sources.items():
            if not (self.link and source.kind == "images"):
                held = self.sizes[split].values()
                left += max(0, source.size - sum(size + n * TAR_OVERHEAD for n, size in held))
        need, free = DISK_OVERHEAD * left, shutil.disk_usage(self.root).free
        if need > free:
            raise UserError(
                f"{self.root} needs {need / 1e9:,.1f} GB more and its disk has {free / 1e9:,.1f}"
                " GB free. Make room, or name a folder on another disk."
            )

    def save(self, image: Path | Callable[[], BinaryIO], size: int, target: Path) -> None:
        """Puts an image at ``target``, unless that is there with the same size.

        Args:
            image: The image's file, or what opens it in an archive.
            size: Its bytes.
            target: Where it belongs.
        """
        has = target.stat().st_size if target.exists() else 0
        if has == size and target.exists():
            return
        if os.path.lexists(target) and target.parent.parent.name not in self.own:
            raise UserError(
                f"{target} has {has:,} bytes and the source's {size:,}: something else"
                " made it, so it is not replaced. Move it away, or name another folder."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, Path) and self.link:
            self.scratch.symlink_to(image)
        else:
            with open(image, "rb") if isinstance(image, Path) else image() as source:
                with open(self.scratch, "wb") as file:
                    shutil.copyfileobj(source, file)
        self.scratch.replace(target)

    def add(self, split: str, source: Source, progress: Progress) -> None:
        """Adds a split's images."""
        if split in self.own - self.done:
            self._note(split)
        path, name = source.path, f"{split}: {source.path.name}"
        if source.kind == "archive":
            with whole(path), progress.open(path, "rb", description=name) as file:
                with tarfile.open(path, "r:", file) as tar:
                    (self._add_train if split == "train" else self._add_val)(tar)
                file.seek(0, os.SEEK_END)
            return
        task = progress.add_task(name, total=source.size)
        if source.kind == "class tars" or not source.whole:
            for tar in class_tars(path) if split == "train" else ():
                with open(tar, "rb") as file:
                    self._add_class(tar.name, tar.stat().st_size, file, path)
                progress.advance(task, tar.stat().st_size)
        if source.kind == "images" or not source.whole:
            for entry in files(path, IMAGES[split]):
                image, size = Path(entry.path), entry.stat().st_size
                name = f"{image.stem}.JPEG"
                wnid = image.parent.name if split == "train" else self.labels.get(name, "")
                if not self._knows(wnid):
                    raise UserError(f"{image} is in no class of ILSVRC-2012, or has no label.")
                self.save(image, size, self.root / split / wnid / name)
                progress.advance(task, size)

    def _knows(self, wnid: str) -> bool:
        return wnid in self.classes if self.classes else bool(WNID.fullmatch(wnid))

    def _add_val(self, tar: tarfile.TarFile) -> None:
        for member, name in members(tar, self.labels.get):
            target = self.root / "val" / self.labels[name] / name
            self.save(partial(tar.extractfile, member), member.size, target)

    def _add_train(self, tar: tarfile.TarFile) -> None:
        """The training images from the tar of the classes' tars."""
        for member, name in members(tar, lambda name: self._knows(name.removesuffix(".tar"))):
            with tar.extractfile(member) as file:
                self._add_class(name, member.size, file, tar.name)

    def _add_class(self, name: str, size: int, file: BinaryIO, where: Path | str) -> None:
        """The images of a class's tar, unless the journal says that they are there."""
        folder = self.root / "train" / name.removesuffix(".tar")
        if not self._knows(folder.name):
            raise UserError(f"{where} holds {name}, which is no class of ILSVRC-2012.")
        if _entry(name, size, *self.sizes["train"].get(folder.name, ())) in self.done:
            return
        with whole(f"{name} in {where}"), tarfile.open(name, "r:", file) as images:
            for image, image_name in members(images, TRAIN_IMAGE.fullmatch):
                self.save(partial(images.extractfile, image), image.size, folder / image_name)
        if "train" in self.own:
            self._note(_entry(name, size, *measure(folder)))

    def _note(self, line: str) -> None:
        with open(self.journal, "a") as journal:
            print(line, file=journal)

    def check(self, counts: Counts, splits: Collection[str]) -> dict[str, int]:
        """Returns how many images each split has.

        Args:
            counts: What the data set must hold.
            splits: What must be there; what is there besides is checked too.

        Raises:
            UserError: If the classes or images are not those of the data set.
        """
        held = {}
        for split, total in counts.totals().items():
            sizes = measure_classes(self.root / split)
            if not sizes and split not in splits:
                continue
            images = {wnid: count for wnid, (count, _) in sizes.items()}
            wrong = {wnid for wnid in images if not self._knows(wnid)} | self.classes - set(images)
            if split == "val":
                wrong |= {wnid for wnid, n in images.items() if n != counts.val_per_class}
            held[split] = sum(images.values())
            if wrong or held[split] != total or len(images) != counts.classes:
                see = f" See {', '.join(sorted(wrong)[:5])}." if wrong else ""
                raise UserError(
                    f"{self.root / split} holds {held[split]:,} images in {len(images):,} classes,"
                    f" not {total:,} in {counts.classes:,}.{see} Either what they came from is"
                    " incomplete (--md5 checks archives), or some files here are not from"
                    " ILSVRC-2012."
                )
        return held


def _entry(name: str, *measured: int) -> str:
    """Returns the journal's line for a class's tar: its size and what its folder measures."""
    return " ".join(map(str, (name, *measured)))


def check_md5(archive: Path, progress: Progress) -> None:
    """Raises UserError unless ``archive`` has the MD5 sum of image-net.org's."""
    digest = hashlib.md5(usedforsecurity=False)
    with progress.open(archive, "rb", description=f"MD5 of {archive.name}") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != MD5[archive.name]:
        raise UserError(f"{archive} is not image-net.org's (its MD5 differs): download it again")


def prepare(
    src: Path, dst: Path, counts: Counts, md5: bool = False, link: bool = False
) -> dict[str, int]:
    """Lays out what ``src`` has in ``dst/train`` and ``dst/val``, and checks the result.

    Args:
        src: A folder with archives or images, see :func:`find`.
        dst: The folder to fill; what is there already is kept.
        counts: What the data set must hold.
        md5: Whether to check the archives' MD5 sums first.
        link: Whether to link to images that are in folders, not to copy them.

    Returns:
        How many images each split has.

    Raises:
        UserError: Where nothing is found, or no labels for validation images, an archive is damaged
            or another one, the disk has no room, or the result does not hold what ``counts`` says.
    """
    src = Path(os.path.abspath(src))
    found = {split: find(src, split, counts) for split in SPLITS}
    sources = {split: source for split, source in found.items() if source}
    table = find_labels(src)
    val = sources.get("val")
    if not table and val and val.kind == "images" and next(val.path.glob("n*/*"), None):
        table = val.path  # sorted already
    for split, source in found.items():
        if source:
            to = "linked" if link else "copied"
            to = to if source.kind == "images" else "unpacked"
            of = "" if source.whole else f" of {counts.totals()[split]:,}"
            print(
                f"{split}: {source.number:,}{of} {source.kind}, {source.size / 1e9:,.1f} GB, in"
                f" {source.path}: to be {to} to {dst / split}"
            )
        elif held := sum(n for n, _ in measure_classes(dst / split).values()):
            print(f"{split}: nothing in {src}; {held:,} images are in {dst / split} already")
        else:
            print(f"{split}: missing; it would come from {ARCHIVES[split]} ({PAGE})")
    print(f"labels of val: {table or 'missing'}", flush=True)
    if not sources:
        raise UserError(
            f"{src} lacks {', '.join(MD5)}, and has no train and no val with images either."
            f" Download from {PAGE}, which asks for a registration: the training and validation"
            " images and the development kit of task 1; or name the folder that has them."
        )
    if val and not table:
        raise UserError(
            f"{val.path} has no labels: put {DEVKIT} (2.5 MB, from {PAGE}, which asks"
            f" for a registration) or Kaggle's {KAGGLE} into {src}."
        )
    images = [source for source in sources.values() if source.kind == "images"]
    if link and not images:
        raise UserError(f"--link: {src} has archives, which must be unpacked; leave it out.")
    archives = [source.path for source in sources.values() if source.kind == "archive"]
    archives += [table] if table and table.name == DEVKIT else []
    if md5 and not archives:
        raise UserError(f"--md5: {src} has none of {', '.join(MD5)} to check; leave it out.")
    layout = Layout(dst, read_labels(table, counts) if table else {}, link)
    layout.check_space(sources)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        for path in archives if md5 else ():
            check_md5(path, progress)
        for split, source in reversed(sources.items()):  # the smaller first
            layout.add(split, source, progress)
    return layout.check(counts, sources.keys())


def main() -> None:
    """Runs the tool."""
    from tools.arguments import plain_parser

    parser = plain_parser(__doc__)
    home = Path("data/imagenet")
    parser.add_argument("src", type=Path, metavar="SRC", help="the folder with what you have")
    parser.add_argument(
        "dst", type=Path, metavar="DST", nargs="?", default=home, help="default: %(default)s"
    )
    parser.add_argument("--link", action="store_true", help="link to images, do not copy them")
    parser.add_argument("--md5", action="store_true", help="check the archives' MD5 sums first")
    args = parser.parse_args()
    try:
        held = prepare(args.src, args.dst, Counts(), args.md5, args.link)
    except (OSError, KeyboardInterrupt) as error:
        raise UserError(f"{str(error) or 'stopped'}. Run this again to go on from here.") from error
    there = " and ".join(
        f"{held[split]:,} {name}" for split, name in SPLITS.items() if split in held
    )
    lacking = [name for split, name in SPLITS.items() if split not in held]
    print(f"{args.dst}: all {there} images are there{'; no ' + lacking[0] if lacking else ''}.")
    if args.dst.resolve() != home.resolve():
        print(f"The configs read {home}: ln -s {args.dst.resolve()} {home}")
    if not lacking:
        print("Next: python tools/train.py configs/vgg16_d_jitter.py")
    elif "val" in held:
        print("Next: python tools/test.py configs/vgg16_d_jitter.py CHECKPOINT")


if __name__ == "__main__":
    run(main)
