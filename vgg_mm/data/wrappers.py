"""Data sets in data sets: mmengine's, mmpretrain's and torch's wrappers, looked through."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from vgg_mm.errors import UserError


def levels(dataset: Any) -> Iterator[Any]:
    """Yields a data set, or its config, and all that it wraps, at any depth."""
    yield dataset
    if isinstance(dataset, dict):
        one, many = dataset.get("dataset"), dataset.get("datasets")
    elif holds_images(dataset):
        return
    else:
        one, many = getattr(dataset, "dataset", None), getattr(dataset, "datasets", None)
    for each in many or ([] if one is None else [one]):
        yield from levels(each)


def with_pipeline(dataset: dict, pipeline: list[dict]) -> dict:
    """A data set's config with another pipeline, or a wrapper's, whose sets get it."""
    if many := dataset.get("datasets"):
        return {**dataset, "datasets": [with_pipeline(each, pipeline) for each in many]}
    if one := dataset.get("dataset"):
        return {**dataset, "dataset": with_pipeline(one, pipeline)}
    return {**dataset, "pipeline": pipeline}


def holds_images(dataset: Any) -> bool:
    """Whether it is no wrapper, but describes samples and has a pipeline for them."""
    return hasattr(dataset, "get_data_info") and hasattr(dataset, "pipeline")


def innermost(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set that holds a wrapper's sample, and the sample's index in it."""
    while not holds_images(dataset):
        if hasattr(dataset, "cumulative_sizes"):  # ConcatDataset
            n = bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[n - 1] if n else 0
            dataset = dataset.datasets[n]
            continue
        if not hasattr(dataset, "dataset"):
            raise UserError(
                f"{type(dataset).__name__} has no get_data_info and no pipeline, which "
                "SeededDataset needs to give every sample its random numbers: derive it from "
                "mmpretrain's BaseDataset, or train on it without SeededDataset and EpochSampler."
            )
        if hasattr(dataset, "indices"):  # torch's Subset
            index = dataset.indices[index]
        elif not hasattr(dataset, "_ori_indices"):  # KFoldDataset holds its part alone
            index = dataset._get_ori_dataset_idx(index)
        dataset = dataset.dataset
    return dataset, index
