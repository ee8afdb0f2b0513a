"""Putting restart markers into JPEGs, without loss, for windows to be cut out (:mod:`.jpeg`)."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np

from vgg_mm.data.files import files_below
from vgg_mm.data.images import CorruptImageError, decode, read_bytes
from vgg_mm.data.jpeg import Header, Jpeg
from vgg_mm.errors import UserError
from vgg_mm.processes import in_processes

TILED = "tiled"


def tile(data: bytes, interval: int = 2, name: str = "the file") -> tuple[bytes, str]:
    """Puts restart markers into a JPEG with ``jpegtran``; its coefficients stay the same.

    Progressive files become sequential, and every file's codes optimal.

    Args:
        data: The file's bytes.
        interval: The markers' distance in MCUs; the nearest that divides a row's MCUs is taken.
        name: What errors call it.

    Returns:
        The new bytes and ``'tiled'``; or the same bytes and why they are left as they are. Decoded,
        both give the same pixels.

    Raises:
        CorruptImageError: See :func:`vgg_mm.data.decode`.
    """
    if not data.startswith(b"\xff\xd8"):
        return data, "no JPEG"
    if (parsed := Jpeg.parse(data)) and _is_tiled(parsed, interval):
        return data, TILED
    pixels = decode(data, name)
    header = Header.read(data)
    if not header.plain:
        return data, "grey, CMYK, turned by EXIF, or of a rare kind"
    command = ["jpegtran", "-copy", "all", "-optimize", "-restart"]
    done = subprocess.run(
        [*command, f"{divisor(header.grid[1], interval)}B"], input=data, capture_output=True
    )
    parsed = Jpeg.parse(done.stdout)
    if done.returncode or not parsed or not parsed.tiled:
        return data, "refused by jpegtran, perhaps damaged"
    if not np.array_equal(decode(done.stdout, "jpegtran's file"), pixels):
        return data, "changed by jpegtran"
    return done.stdout, TILED


def check_jpegtran() -> None:
    """Raises UserError, with what to install, where ``jpegtran`` is missing."""
    if not shutil.which("jpegtran"):
        raise UserError(
            "jpegtran is missing. It comes with libjpeg-turbo: 'apt-get install "
            "libjpeg-turbo-progs' on Debian and Ubuntu, 'dnf install libjpeg-turbo-utils' on "
            "Fedora, 'brew install jpeg-turbo' on macOS, 'conda install libjpeg-turbo' elsewhere."
        )


def divisor(number: int, near: int) -> int:
    """The divisor of ``number`` whose ratio to ``near`` is closest to 1."""
    divisors = (i for i in range(1, number + 1) if number % i == 0)
    return min(divisors, key=lambda i: abs(math.log(i / near)))


def _is_tiled(parsed: Jpeg, interval: int) -> bool:
    """Whether a file has the markers that :func:`tile` would put in."""
    return parsed.header.interval == divisor(parsed.header.grid[1], interval)


def tile_folder(
    src: Path, dst: Path, interval: int = 2, jobs: int = 1
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Makes ``dst`` a copy of ``src`` whose JPEGs are tiled, see :func:`tile`.

    A file appears there whole or not at all, so a run that was stopped goes on where it was: what
    is there, tiled so and no older than its source, is kept. A progress bar goes to stderr.

    Args:
        src: The folder to read, at any depth; links are followed, hidden files left out. Nothing in
            it is changed.
        dst: The folder to fill.
        interval: See :func:`tile`.
        jobs: How many processes work.

    Returns:
        How many files, and their bytes before and after, of those that are ``'tiled'``, and of the
        others by why they are copied; and a line for each that is corrupt, and copied nevertheless,
        or that cannot be read.

    Raises:
        UserError: If ``jpegtran`` or a folder is missing, one of the folders is in the other, or a
            process was killed.
        OSError: If a file cannot be written.
    """
    check_jpegtran()
    if not src.is_dir():
        raise UserError(f"{src} is no folder: name the one that holds the images.")
    inside, outside = dst.resolve(), src.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise UserError(f"{src} and {dst}: one is in the other. Name a folder apart.")
    dst.mkdir(parents=True, exist_ok=True)
    for left_over in dst.glob(".tile_jpegs.*.part"):
        left_over.unlink()

    files, failures = sorted(files_below(src)), []
    totals: dict[str, np.ndarray] = {}
    work = partial(_tile_file, src, dst, interval)
    for what, *sizes, failure in in_processes(work, files, jobs, "Tiling"):
        failures += failure
        totals[what] = totals.get(what, 0) + np.array([1, *sizes])
    return totals, failures


def _tile_file(src: Path, dst: Path, interval: int, name: str) -> tuple[str, int, int, list[str]]:
    """Tiles a file: what became of it, its bytes before and after, and what is wrong with it."""
    source, target = src / name, dst / name
    there = target.read_bytes() if target.exists() else b""
    try:
        if (
            (parsed := Jpeg.parse(there))
            and _is_tiled(parsed, interval)
            and (now := source.stat()).st_mtime_ns <= target.stat().st_mtime_ns
        ):
            return TILED, now.st_size, len(there), []
        data = read_bytes(str(source))
    except (CorruptImageError, OSError) as error:
        return "unreadable", 0, 0, [str(error)]
    try:
        (result, what), failure = tile(data, interval, str(source)), []
    except CorruptImageError as error:
        result, what, failure = data, "corrupt", [str(error)]
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = dst / f".tile_jpegs.{os.getpid()}.part"
    scratch.write_bytes(result)
    scratch.replace(target)
    return what, len(data), len(result), failure
