"""Files of guesses, and which row of Tables 8 and 9 each fills."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from zipfile import BadZipFile, ZipFile

import numpy as np

from tools.analysis.fusion import check_same_data
from vgg_mm.errors import UserError
from vgg_mm.paper import (
    S_JITTER,
    TABLE_8,
    TABLE_9,
    BoxRow,
    BoxSettingRow,
    box_config_name,
    config_name,
)
from vgg_mm.testing.localisation import Guesses

_BEST = "scores/fused.npz"  # Sec. 4.5's best system: Table 6's last row
_RATER = config_name("D", S_JITTER)  # the net whose score map rates windows


def box_commands(row: BoxSettingRow | BoxRow) -> tuple[str, ...]:
    """The commands whose guesses fill a row of Table 8 or 9, once its nets are trained."""
    if isinstance(row, BoxSettingRow):
        config, options, name = box_config_name(384), "", ""
        if row.trained == "fc":
            options, name = " model.backbone.frozen_stages=5", "_fc"
        if row.regression == "SCR":
            options, name = f"{options} model.head.per_class=False", f"_scr{name}"
        return (
            f"python tools/test.py configs/{config}.py work_dirs/{config}{name}/best.pth "
            f"--true-class --out boxes/{config}{name}_true_class.npz"
            f"{' --cfg-options' if options else ''}{options}",
        )
    nets = [(box_config_name(S), " ".join(map(str, Q))) for S, Q in row.models]
    tested = [f"configs/{config}.py work_dirs/{config}/best.pth" for config, _ in nets]
    joined = [f" --with {net} {Q}" for net, (_, Q) in zip(tested[1:], nets[1:], strict=True)]
    name = "_".join(f"{S}_at_{'_'.join(map(str, Q))}" for S, Q in row.models)
    return (
        "python tools/analysis/fuse.py scores/vgg16_d_jitter.npz scores/vgg19_e_jitter.npz "
        f"--out {_BEST}",
        f"python tools/test.py {tested[0]} --scales {nets[0][1]}{''.join(joined)} --scores {_BEST} "
        f"--classifier configs/{_RATER}.py work_dirs/{_RATER}/best.pth --out boxes/{name}.npz",
    )


def holds_guesses(file: Path) -> bool:
    """Whether a file is one of :class:`vgg_mm.testing.Guesses`; reads no array."""
    try:
        with ZipFile(file) as saved:
            return "guesses.npy" in saved.namelist()
    except (OSError, ValueError, BadZipFile):
        return False  # who reads it says what it is


class StoredGuesses:
    """Files of guesses of one data set, from which the tables' rows take their errors.

    Args:
        files: Files that ``tools/test.py --out`` wrote for configs of boxes.
        blacklist: ILSVRC-2014's list of the validation images that do not count; None: all count.

    Attributes:
        files: Each file's guesses.
        rows: The rows that are filled, and by which file.

    Raises:
        UserError: If a file is none of ours, or two are of different data or fill the same row.
    """

    def __init__(self, files: Sequence[Path], blacklist: Path | None = None) -> None:
        self.files: dict[Path, Guesses] = {}
        self.rows: dict[BoxSettingRow | BoxRow, Path] = {}
        self.skipped: np.ndarray | None = None
        for file in files:
            guesses = Guesses.load(file)
            check_same_data(*next(iter(self.files.items()), (file, guesses)), file, guesses)
            self.files[file] = guesses
            for row in _rows(guesses.protocols[0]):
                if (other := self.rows.setdefault(row, file)) != file:
                    raise UserError(
                        f"{other} and {file} hold guesses of the same row of Table "
                        f"{8 if isinstance(row, BoxSettingRow) else 9}: give one of them."
                    )
            if blacklist and self.skipped is None:
                self.skipped = blacklisted(guesses.names.tolist(), blacklist)

    def error(self, row: BoxSettingRow | BoxRow) -> float | None:
        """The row's error in %: top-1 of Table 8, top-5 of Table 9; None where no file fills it."""
        if (file := self.rows.get(row)) is None:
            return None
        return self.measured(self.files[file], 1 if isinstance(row, BoxSettingRow) else 5)

    def measured(self, guesses: Guesses, k: int) -> float:
        """The top-k error in %, without the images that do not count."""
        return guesses.error(k, self.skipped)


def blacklisted(names: Sequence[str], file: str | Path) -> np.ndarray:
    """Which images the devkit of ILSVRC-2014 does not count: (N,) bool.

    Args:
        names: The images' names, such as ``n01440764/ILSVRC2012_val_00000293.JPEG``.
        file: ``ILSVRC2014_clsloc_validation_blacklist.txt``, the images' numbers.

    Raises:
        UserError: If the file is missing or another, or a name does not end with a number.
    """
    try:
        listed = [int(number) for number in Path(file).read_text().split()]
        numbers = [int(PurePath(name).stem.rpartition("_")[2]) for name in names]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"the blacklist {file} ({reason}): expected the numbers of images, one a line, and "
            "images called as ILSVRC2012_val_00000293.JPEG."
        ) from None
    return np.isin(numbers, listed)


def _rows(protocol: dict) -> Iterable[BoxSettingRow | BoxRow]:
    """The rows that a protocol is of: one at most."""
    nets = [protocol, *protocol["others"]]
    if any(net["arch"] != "D" or net["config"] != box_config_name(net["S"]) for net in nets):
        return
    if protocol["test"] == 1:
        tested = (protocol["S"], protocol["scales"], protocol["trained"], protocol["regression"])
        yield from (r for r in TABLE_8 if tested == (384, [384], r.trained, r.regression))
    elif protocol["flip"] and all((n["trained"], n["regression"]) == ("all", "PCR") for n in nets):
        tested = sorted((net["S"], tuple(sorted(net["scales"]))) for net in nets)
        yield from (row for row in TABLE_9 if sorted(row.models) == tested)
