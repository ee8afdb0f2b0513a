"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vgg_mm.errors import UserError


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file beside ``path`` to write to, which takes its place once it is safe on the disk.

    Raises:
        UserError: If the disk is full or refuses; what was there is as it was.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}); what was there is as it was."
        ) from None


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder beside ``path`` to write files to, which becomes it once all are written.

    Raises:
        UserError: If ``path`` is there already and not empty, or the disk is full or refuses;
            nothing is left then.
    """
    path = Path(path).expanduser()
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise UserError(f"{path} is there already: name another folder, or remove it.")
        aside.mkdir(parents=True)
        try:
            yield aside
            for each in aside.iterdir():
                with open(each, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror or error}).") from None
