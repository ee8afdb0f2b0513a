"""Lay out ILSVRC-2012 as the configs read it: ``data/imagenet/{train,val}/n01440764/*.JPEG``.

SRC is the folder with the three archives that image-net.org gives to whoever registers (145 GB)::

    python tools/data/prepare_imagenet.py SRC

It needs another 150 GB and can be stopped at any moment: the next run goes on where it was.
"""

import argparse
import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import mat4py
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from vgg_mm.errors import UserError, run

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
MD5 = {
    TRAIN: "1d675b47d978889d74fa0da5fadfb00e",
    VAL: "29b22e2961454d5413ddabcf34fc5622",
    DEVKIT: "fa75699e90414af021442c21a62c3abf",
}
PAGE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
WNID = re.compile(r"n[0-9]{8}")
TRAIN_IMAGE = re.compile(r"n[0-9]{8}_[0-9]+\.JPEG")
TAR_OVERHEAD = 1024  # bytes of header and padding that a tar spends on a file, at most
DISK_OVERHEAD = 1.03  # what the images take up on disk, relative to their tar


@dataclass(frozen=True)
class Counts:
    """What the data set holds; by default what ILSVRC-2012 does."""

    classes: int = 1000
    train: int = 1_281_167
    val_per_class: int = 50


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


def read_devkit(archive: Path, counts: Counts) -> dict[str, str]:
    """Returns the class folder (the WordNet ID) of each validation image, by the image's name.

    The devkit numbers the classes in an order of its own, which is not that of the folders' names.

    Raises:
        UserError: Where the devkit is damaged or does not hold what ``counts`` says.
    """
    with whole(archive), tarfile.open(archive, "r:gz") as devkit:
        data = {
            PurePosixPath(member.name).name: devkit.extractfile(member).read()
            for member in devkit
            if member.isfile()
        }
    try:
        table = mat4py.loadmat(io.BytesIO(data["meta.mat"]))["synsets"]
        leaves = [i for i, children in enumerate(table["num_children"]) if children == 0]
        folders = {table["ILSVRC2012_ID"][i]: WNID.fullmatch(table["WNID"][i])[0] for i in leaves}
        truth = data["ILSVRC2012_validation_ground_truth.txt"].split()
        labels = [folders[int(number)] for number in truth]
    except Exception as error:  # mat4py raises whatever a damaged file makes it stumble over
        raise UserError(f"{archive}: its class tables cannot be read ({error!r})") from error
    images = Counter(labels)
    if len(images) != counts.classes or set(images.values()) != {counts.val_per_class}:
        raise UserError(
            f"{archive} lists {len(labels):,} validation images in {len(images):,} classes, not"
            f" {counts.val_per_class} in each of {counts.classes:,}: this is not ILSVRC-2012"
        )
    return {f"ILSVRC2012_val_{i:08d}.JPEG": wnid for i, wnid in enumerate(labels, 1)}


def measure(folder: Path) -> tuple[int, int]:
    """Returns how many images ``folder`` holds, and their bytes."""
    with os.scandir(folder) as entries:
        sizes = [entry.stat().st_size for entry in entries if entry.name.endswith(".JPEG")]
    return len(sizes), sum(sizes)


def measure_classes(split: Path) -> dict[str, tuple[int, int]]:
    """Returns what each class folder of ``split`` measures."""
    return {folder.name: measure(folder) for folder in split.glob("[!.]*") if folder.is_dir()}


class Layout:
    """The folder that is filled: an image appears there whole or not at all.

    A journal in it says which classes are complete. Images without a journal are someone else's:
    they count where they have the right size, and are never replaced.

    Args:
        root: The folder; made where it does not exist.
        labels: The class folder of each validation image, by the image's name.
    """

    def __init__(self, root: Path, labels: dict[str, str]):
        root.mkdir(parents=True, exist_ok=True)
        for left_over in root.glob(".prepare_imagenet.*.part"):
            left_over.unlink()
        self.root = root
        self.labels = labels
        self.scratch = root / f".prepare_imagenet.{os.getpid()}.part"
        self.journal = root / ".prepare_imagenet.done"
        self.sizes = {split: measure_classes(root / split) for split in ("train", "val")}
        self.own = self.journal.exists() or not any(self.sizes.values())
        if self.own:
            self.journal.touch()

    def check_space(self, archives: int) -> None:
        """Raises UserError if the disk cannot take what is left of the ``archives``' bytes."""
        held = [size for split in self.sizes.values() for size in split.values()]
        left = archives - sum(size + count * TAR_OVERHEAD for count, size in held)
        need, free = DISK_OVERHEAD * left, shutil.disk_usage(self.root).free
        if need > free:
            raise UserError(
                f"{self.root} needs {need / 1e9:,.1f} GB more and its disk has {free / 1e9:,.1f}"
                " GB free. Make room, or name a folder on another disk."
            )

    def save(self, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
        """Extracts ``member`` to ``target``, unless that is there with the same size."""
        size = target.stat().st_size if target.exists() else None
        if size == member.size:
            return
        if size is not None and not self.own:
            raise UserError(
                f"{target} has {size:,} bytes and the archive's {member.size:,}: something else"
                " made it, so it is not replaced. Move it away, or name another folder."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tar.extractfile(member) as image, open(self.scratch, "wb") as file:
            shutil.copyfileobj(image, file)
        self.scratch.replace(target)

    def add_val(self, tar: tarfile.TarFile) -> None:
        """Extracts the validation images, each to its class's folder."""
        for member, name in members(tar, self.labels.get):
            self.save(tar, member, self.root / "val" / self.labels[name] / name)

    def add_train(self, tar: tarfile.TarFile) -> None:
        """Extracts the training images from the tar of the classes' tars."""
        folders = {f"{wnid}.tar": self.root / "train" / wnid for wnid in self.labels.values()}
        done = set(self.journal.read_text().splitlines()) if self.own else set()
        with open(self.journal if self.own else os.devnull, "a") as journal:
            for member, name in members(tar, folders.get):
                folder = folders[name]
                if _entry(member, *self.sizes["train"].get(folder.name, ())) in done:
                    continue
                with whole(f"{name} in {tar.name}"), tar.extractfile(member) as file:
                    with tarfile.open(name, "r:", file) as images:
                        for image, image_name in members(images, TRAIN_IMAGE.fullmatch):
                            self.save(images, image, folder / image_name)
                print(_entry(member, *measure(folder)), file=journal, flush=True)

    def check(self, counts: Counts) -> None:
        """Raises UserError unless the classes and images are those of the data set."""
        val = Counter(self.labels.values())
        for split, total in (("train", counts.train), ("val", len(self.labels))):
            sizes = measure_classes(self.root / split)
            images = {wnid: count for wnid, (count, _) in sizes.items()}
            wrong = images.keys() ^ val.keys()
            if split == "val":
                wrong |= {wnid for wnid, count in images.items() if count != val[wnid]}
            if wrong or sum(images.values()) != total:
                see = f" See {', '.join(sorted(wrong)[:5])}." if wrong else ""
                raise UserError(
                    f"{self.root / split} holds {sum(images.values()):,} images in {len(images):,}"
                    f" classes, not {total:,} in {len(val):,}.{see} Either an archive is cut short"
                    " (--md5 checks them), or some files here are not from ILSVRC-2012."
                )


def _entry(member: tarfile.TarInfo, *measured: int) -> str:
    """Returns the journal's line for a class's tar and what its folder measures."""
    return " ".join(map(str, (member.name, member.size, *measured)))


def check_md5(archive: Path, progress: Progress) -> None:
    """Raises UserError unless ``archive`` has the MD5 sum of image-net.org's."""
    digest = hashlib.md5(usedforsecurity=False)
    with progress.open(archive, "rb", description=f"MD5 of {archive.name}") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != MD5[archive.name]:
        raise UserError(f"{archive} is not image-net.org's (its MD5 differs): download it again")


def prepare(src: Path, dst: Path, counts: Counts, md5: bool = False) -> None:
    """Extracts the archives of ``src`` into ``dst/train`` and ``dst/val`` and checks the result.

    Args:
        src: The folder with the three archives.
        dst: The folder to fill; what is there already is kept.
        counts: What the data set must hold.
        md5: Whether to check the archives' MD5 sums first.

    Raises:
        UserError: Where an archive is missing, damaged or another one, where the disk has no room,
            or where the result does not hold what ``counts`` says.
    """
    if missing := [name for name in MD5 if not (src / name).is_file()]:
        raise UserError(
            f"{src} lacks {', '.join(missing)}. Download from {PAGE}, which asks for a"
            " registration: the training and validation images and the development kit of task 1."
        )
    layout = Layout(dst, read_devkit(src / DEVKIT, counts))
    layout.check_space(sum((src / name).stat().st_size for name in (TRAIN, VAL)))
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        for name in MD5 if md5 else ():
            check_md5(src / name, progress)
        for name, add in ((VAL, layout.add_val), (TRAIN, layout.add_train)):
            path = src / name
            with whole(path), progress.open(path, "rb", description=name) as file:
                with tarfile.open(path, "r:", file) as tar:
                    add(tar)
                file.seek(0, os.SEEK_END)
    layout.check(counts)


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    home, counts = Path("data/imagenet"), Counts()
    parser.add_argument("src", type=Path, metavar="SRC", help="the folder with the archives")
    parser.add_argument(
        "dst", type=Path, metavar="DST", nargs="?", default=home, help="default: %(default)s"
    )
    parser.add_argument("--md5", action="store_true", help="check the archives' MD5 sums first")
    args = parser.parse_args()
    try:
        prepare(args.src, args.dst, counts, args.md5)
    except (OSError, KeyboardInterrupt) as error:
        raise UserError(f"{str(error) or 'stopped'}. Run this again to go on from here.") from error
    val = counts.classes * counts.val_per_class
    print(f"{args.dst}: all {counts.train:,} training and {val:,} validation images are there.")
    if args.dst.resolve() != home.resolve():
        print(f"The configs read {home}: ln -s {args.dst.resolve()} {home}")
    print("Next: python tools/train.py configs/vgg16_d_jitter.py")


if __name__ == "__main__":
    run(main)
