"""Where a run goes on."""

from __future__ import annotations

import os
from pathlib import Path

from vgg_mm.errors import UserError
from vgg_mm.weights.checkpoint import read_checkpoint


def latest(work_dir: str | os.PathLike) -> Path:
    """The newest checkpoint of the run in ``work_dir``, which is read to see that it is whole.

    Raises:
        UserError: If there is none, or it is damaged; the one before it is then named.
    """
    work_dir = Path(work_dir)
    try:
        newest = work_dir / (work_dir / "last_checkpoint").read_text().strip()
    except FileNotFoundError:
        raise UserError(f"no run to resume in {work_dir}: it has no last_checkpoint.") from None
    if not newest.exists():  # an absolute path, and the work dir was moved
        newest = work_dir / newest.name
    try:
        read_checkpoint(newest)
    except UserError as error:
        others = sorted(work_dir.glob("[ei]*_*.pth"), key=os.path.getmtime)
        others = [path for path in others if path != newest]
        hint = f" The one before it: --resume {others[-1]}" if others else ""
        raise UserError(f"{error}{hint}") from None
    return newest
