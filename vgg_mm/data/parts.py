"""Parts of large files, here or on a server: what a shard holds of an image."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from vgg_mm.errors import UserError, library

T = TypeVar("T")

HEADER = 512  # bytes before a file in a tar
WAITS = (0.5, 1, 2, 4)  # seconds between tries
TIMEOUT = dict(total=120, sock_connect=10, sock_read=30)  # seconds of a try over HTTP
REFUSED = (401, 403, 404, 410)  # HTTP's ways to say that another try is of no use
AT_ONCE = 32  # parts that a process asks servers for


class Part(NamedTuple):
    """An image's file in a tar.

    Attributes:
        path: What the image is called.
        shard: The tar's path or address.
        start: Where the file's header begins in it, in bytes.
        size: The file's bytes, which follow.
        check: The header's CRC-32: it holds the file's name and size, so that another file is
            noticed.
    """

    path: str
    shard: str
    start: int
    size: int
    check: int

    def __str__(self) -> str:
        return self.path

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            OSError: If the shard is missing, refused, or has something else there.
            UserError: See :func:`fetch`.
        """
        for _ in range(2):
            data = fetch(self.shard, self.start, HEADER + self.size)
            whole = len(data) == HEADER + self.size
            if whole and crc32(data[:HEADER]) == self.check:
                return data[HEADER:]
        found = "holds another file than the index says" if whole else "is truncated: it ends"
        raise OSError(f"{self.shard} {found} at byte {self.start + (0 if whole else len(data))}")

    def begin(self) -> Callable[[], bytes]:
        """Begins to read from a server, and returns what waits for the bytes; see :meth:`read`."""
        if not is_remote(self.shard):
            return self.read
        return _threads(os.getpid()).submit(self.read).result


def is_remote(file: str) -> bool:
    """Whether a file is an address, such as ``https://...`` or ``s3://...``."""
    return "://" in file


def fetch(file: str, start: int = 0, size: int | None = None) -> bytes:
    """Reads a file from ``start`` on, ``size`` bytes or up to its end; fewer where it ends before.

    Args:
        file: A path, or an address of any kind that fsspec knows. What does not answer is asked
            again, four times, after half a second and then longer.
        start: In bytes.
        size: In bytes.

    Raises:
        OSError: If it is missing or refused.
        UserError: If a server does not answer, or sends no parts of files.
    """
    if not is_remote(file):
        with open(file, "rb", buffering=0) as stream:
            stream.seek(start)
            return stream.read(-1 if size is None else size)
    return _patiently(file, lambda: _fetch(file, start, size))


def length(file: str) -> int:
    """A file's bytes; raises as :func:`fetch`."""
    if not is_remote(file):
        return os.path.getsize(file)
    return _patiently(file, lambda: filesystem(file).size(file))


def _fetch(file: str, start: int, size: int | None) -> bytes:
    if size is None:
        return filesystem(file).cat_file(file)
    # Where the file's length is known, opening it asks for nothing.
    with filesystem(file).open(file, "rb", size=start + size, cache_type="none") as stream:
        stream.seek(start)
        return stream.read(size)


def filesystem(file: str) -> Any:
    """This process's access to a server, of fsspec's, which keeps its connections."""
    protocol, options = file.partition("://")[0], {}
    if protocol in ("http", "https"):
        aiohttp = library("aiohttp", f"reading {file}", "remote")
        options = dict(client_kwargs=dict(timeout=aiohttp.ClientTimeout(**TIMEOUT)))
    try:
        return library("fsspec", f"reading {file}", "remote").filesystem(protocol, **options)
    except (ImportError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error


def _patiently(file: str, read: Callable[[], T]) -> T:
    for wait in (*WAITS, None):
        try:
            return read()
        except UserError:
            raise
        except (FileNotFoundError, PermissionError) as error:
            missing = isinstance(error, FileNotFoundError)
            raise OSError(f"{file}: {'missing' if missing else 'not permitted'}") from error
        except Exception as error:  # each store has its own
            if getattr(error, "status", None) in REFUSED:
                raise OSError(f"{file}: HTTP {error.status}") from error  # type: ignore[attr-defined]
            if "range requests" in str(error):
                raise UserError(
                    f"{file}: its server sends whole files alone, no ranges of bytes. Copy the "
                    "shards to a disk, or to a server that does, as nginx or S3."
                ) from error
            if wait is None:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise UserError(
                    f"{file}: no answer in {len(WAITS) + 1} tries, the last time {reason}. Once "
                    "the server is back, go on with --resume."
                ) from error
            time.sleep(wait * random.SystemRandom().uniform(0.5, 1))
    raise AssertionError


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """A process's own, for a fork has none of its parent's."""
    return ThreadPoolExecutor(AT_ONCE)
