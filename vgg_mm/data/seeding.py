"""Random numbers as an input: sample ``index`` of ``epoch`` is a function of (seed, epoch, index).

The sampler yields that key, the data set gives the sample a generator seeded with it, and every
transform draws from there. So a run is the same whatever the number of workers and processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler

from vgg_mm.data.classes import agree, metainfo
from vgg_mm.data.images import CorruptImageError
from vgg_mm.data.wrappers import innermost, levels
from vgg_mm.errors import UserError
from vgg_mm.registry import DATA_SAMPLERS, DATASETS

Key = tuple[int, int, int]

GROUP = 32  # more gain little
LARGE = 2**21  # bytes of a sample's file and image: of 500 x 375 pixels it has 560 KB


@DATA_SAMPLERS.register_module()
class EpochSampler(Sampler):
    """Yields every index of the data set once an epoch, in random order, as (seed, epoch, index).

    Of N processes, the n-th takes every N-th: together, their t-th batches of B/N are the t-th
    batch of B of one process. What is left over by N is dropped.

    Args:
        dataset: The data set to sample from.
        seed: The run's seed; the Runner passes its own (``randomness``).
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.length = len(dataset)
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.skipped = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass; mmengine's ``DistSamplerSeedHook`` calls it."""
        self.epoch = epoch

    def skip(self, samples: int) -> None:
        """Leaves out so many of the next pass, which a resumed run has seen already."""
        self.skipped = samples

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        skipped, self.skipped = self.skipped, 0
        for index in order[self.rank :: self.world_size][skipped : len(self)]:
            yield self.seed, self.epoch, int(index)

    def __len__(self) -> int:
        return self.length // self.world_size


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Gives every sample of a data set its own generator, ``results['rng']``.

    A corrupt image is replaced by another one, drawn from the same generator, that names it:
    ``results['corrupt']`` is the list of the files that failed (:class:`vgg_mm.CorruptImagesHook`
    counts them).

    Of the samples that are asked for at once, as a DataLoader's worker does for a batch, ``GROUP``
    go through the pipeline side by side, all through one transform before the next (or through one
    of its ``steps``, see :class:`vgg_mm.LoadScaledCrop`): a core that repeats itself finds its code
    in its caches. A sample of more than ``LARGE`` bytes does not wait for the others but runs ahead
    until it is small, as a crop is, so that a group holds one such at a time and no more than
    GROUP x LARGE bytes besides.

    Args:
        dataset: The config of the data set, any of mmpretrain's; wrappers such as
            ``ConcatDataset``, ``RepeatDataset``, ``ClassBalancedDataset`` and ``KFoldDataset``, and
            wrappers of wrappers, are looked through.

    Raises:
        UserError: If a data set has no ``get_data_info`` and no pipeline, or a wrapper cannot hold
            what it is given.
    """

    def __init__(self, dataset: dict | Dataset) -> None:
        try:
            self.dataset: Any = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
            getattr(self.dataset, "full_init", lambda: None)()
        except NotImplementedError as error:  # of KFoldDataset's for a wrapper
            raise UserError(f"SeededDataset: {error}") from error
        except ValueError as error:
            if "meta information" not in str(error):
                raise
            raise UserError(
                f"SeededDataset: {error}. With ignore_keys=['classes', 'folders'], labels go by "
                "the classes' names."
            ) from error
        if (meta := dict(metainfo(self.dataset))).get("classes"):
            agree(self.dataset, meta, "the data set", "its first part")
        for each in levels(self.dataset):
            if len(each):
                innermost(each, 0)  # so that what cannot be used is told now

    @property
    def metainfo(self) -> dict:
        """The wrapped data set's: its classes' names."""
        return metainfo(self.dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> dict:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[dict]:
        if not all(isinstance(key, tuple) for key in keys):
            raise UserError(
                "SeededDataset takes (seed, epoch, index): give its dataloader "
                "sampler=dict(type='vgg_mm.EpochSampler')."
            )
        samples: list[Any] = [None] * len(keys)
        for start in range(0, len(keys), GROUP):
            group = range(start, min(start + GROUP, len(keys)))
            waiting = [self._steps(keys[place], samples, place) for place in group]
            while waiting:
                waiting = [steps for steps in waiting if _pauses(steps)]
        return samples

    def _steps(self, key: Key, samples: list[Any], place: int) -> Iterator[int]:
        """Puts a sample, or its substitute, in its place; yields the bytes it holds on the way."""
        index, rng = key[2], np.random.default_rng(key)
        corrupt: list[str] = []
        while len(corrupt) < 10:
            dataset, at = innermost(self.dataset, index)
            sample = {**dataset.get_data_info(at), "rng": rng, "corrupt": corrupt}
            try:
                for transform in getattr(dataset.pipeline, "transforms", [dataset.pipeline]):
                    yield _bytes(sample)
                    if hasattr(transform, "steps"):
                        yield from transform.steps(sample)
                    else:
                        sample = transform(sample)
                samples[place] = sample
                return
            except CorruptImageError as error:
                corrupt = [*corrupt, str(error)]
            index = int(rng.integers(len(self)))
        raise UserError(
            f"10 of 10 images drawn from {_root(self.dataset)} are corrupt: {' '.join(corrupt)}"
        )


def _pauses(steps: Iterator[int]) -> bool:
    """Takes a sample to the next pause at which it is small; False if it reached its end."""
    for held in steps:
        if held <= LARGE:
            return True
    return False


def _bytes(sample: dict) -> int:
    """The size of a sample's image, or of that which it is a view of."""
    image = sample.get("img")
    base = getattr(image, "base", None)
    return getattr(image if base is None else base, "nbytes", 0)


def _root(dataset: Any) -> str:
    roots = (getattr(each, "data_root", "") for each in levels(dataset))
    return " and ".join(dict.fromkeys(root for root in roots if root)) or "the data set"
