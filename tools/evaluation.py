"""A config, a checkpoint and the config's protocol become scores, guesses or features."""

from __future__ import annotations

import sys
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from tools.analysis.layers import build
from tools.keeping import parts_folder
from vgg_mm.data.wrappers import with_pipeline
from vgg_mm.errors import UserError
from vgg_mm.inputs import check_input
from vgg_mm.paper import stages
from vgg_mm.registry import DATASETS
from vgg_mm.signals import outlive
from vgg_mm.testing.evaluation import Evaluation, finds_boxes, multi_scale
from vgg_mm.testing.localisation import Localizer, net_protocol
from vgg_mm.testing.scores import file_sha256
from vgg_mm.weights.checkpoint import read_checkpoint


class TrainingRunner(Runner):
    """A Runner that leaves a config that begins anew, wherever this run went on from."""

    def dump_config(self) -> None:
        """Writes the config to the work dir."""
        self.cfg.update(resume=False, load_from=None)
        super().dump_config()


class EvaluationRunner(Runner):
    """A Runner that leaves the config in the work dir as the training wrote it.

    Its own has the test-time model in the place of the net, of which nothing else can be made.
    """

    def dump_config(self) -> None:
        """Writes nothing."""


def check_protocol(cfg: Config) -> Evaluation:
    """Looks whether :func:`evaluate` can test the config's net; a training does it at its start.

    Returns:
        The config's ``tta_model`` with its net, whose weights take no memory.

    Raises:
        UserError: If it cannot.
    """
    multi_scale(cfg)
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    model = build(dict(**cfg.tta_model, module=cfg.model))
    if isinstance(model, Localizer):
        model.check_files()
    return model


def evaluate(
    cfg: Config, checkpoint: str, out: str | Path, *, half: bool = False, few: bool = False
) -> dict[str, float]:
    """Tests a checkpoint by the config's protocol (``tta_model``, ``tta_pipeline``).

    A test that was interrupted goes on with the images that it has not scored.

    Args:
        cfg: The config.
        checkpoint: What the Runner saved.
        out: Where to write the posteriors, see :class:`vgg_mm.testing.Scores`.
        half: Whether to store float16 in place of float32.
        few: Whether to test a batch alone, to see that it works.

    Returns:
        ``error/top1`` and ``error/top5`` in %.

    Raises:
        UserError: If the checkpoint does not load safely, or does not fit the config's net, input
            or classes.
    """
    if finds_boxes(cfg):
        return localise(cfg, checkpoint, out, true_class=not names_classes(cfg), few=few)
    check_input(read_checkpoint(checkpoint).get("meta"), cfg.model, checkpoint)
    saver = dict(type="vgg_mm.SaveScores", file=str(out), half=half)
    return _run(deepcopy(cfg), checkpoint, saver, dict(type="vgg_mm.ClassesHook"), few=few)


def names_classes(cfg: Config) -> bool:
    """Whether a config of :func:`finds_boxes` says what tells an image's classes: test 2 can be."""
    return bool(cfg.tta_model.get("scores") or cfg.tta_model.get("classifier"))


def localise(
    cfg: Config, checkpoint: str, out: str | Path, *, true_class: bool = False, few: bool = False
) -> dict[str, float]:
    """Tests where a checkpoint finds things (appendix A), by the config's ``tta_model``.

    A test that was interrupted goes on with the images that it lacks.

    Args:
        cfg: The config, with a :class:`vgg_mm.Localizer`.
        checkpoint: What the Runner saved.
        out: Where to write the guesses, see :class:`vgg_mm.testing.Guesses`.
        true_class: Whether to do test 1, the true class's box on the centre crop, in place of
            test 2, the whole image and its five best classes.
        few: As for :func:`evaluate`.

    Returns:
        ``localisation/top1`` and, of test 2, ``localisation/top5``: errors in %.

    Raises:
        UserError: If a checkpoint does not load safely, or does not fit its net, input or classes;
            if the posteriors are of other images or classes, or nothing tells classes; or if test
            1 is to be at several scales.
    """
    check_input(read_checkpoint(checkpoint).get("meta"), cfg.model, checkpoint)
    cfg = deepcopy(cfg)
    transform, model = multi_scale(cfg), cfg.tta_model
    if true_class:
        if len(transform.scales) > 1:
            raise UserError(
                f"test 1 is of a crop at one scale, and there are {len(transform.scales)}: give "
                "one with --scales."
            )
        model.update(true_class=True, scores=None, classifier=None, others=[])
    elif not names_classes(cfg):
        raise UserError(
            "test 2 wants an image's best classes: give --scores FILE, the posteriors of any "
            "classifier, or --classifier CONFIG CHECKPOINT (tta_model.scores, .classifier)."
        )
    else:
        model["scales"] = [*transform.scales]
        others = (net.get("scales") or () for net in model.get("others", ()))
        transform.scales = sorted({*transform.scales, *chain.from_iterable(others)})
    saver = dict(type="vgg_mm.SaveGuesses", file=str(out))
    hooks = dict(type="vgg_mm.ClassesHook"), dict(type="vgg_mm.PrepareHook")
    return _run(cfg, checkpoint, saver, *hooks, few=few)


def extract(
    cfg: Config,
    checkpoint: str,
    data: dict,
    out: str | Path,
    layer: str | None = None,
    *,
    stack: bool = False,
    half: bool = False,
    boxes: bool = False,
) -> dict[str, float]:
    """Describes the images of a data set by a layer's activations (appendix B).

    An extraction that was interrupted goes on with the images that it lacks.

    Args:
        cfg: The config that the net was trained with; the scales are its ``tta_pipeline``'s.
        checkpoint: What the Runner saved; its classifier may be missing.
        data: The data set's config, without a pipeline.
        out: Where to write the descriptors, see :class:`vgg_mm.testing.Features`.
        layer: The layer, see :class:`vgg_mm.testing.FeatureExtractor`; by default fc7, or without
            a classifier the last conv.
        stack: Whether to stack the scales; by default they are averaged.
        half: Whether to store float16 in place of float32.
        boxes: Whether to describe the box that each sample has in place of its image.

    Returns:
        ``features/images`` and ``features/dimensions``, their numbers.

    Raises:
        UserError: If the checkpoint does not load safely, or does not fit the config's net, or the
            net lacks the layer.
    """
    saved, cfg = read_checkpoint(checkpoint), deepcopy(cfg)
    check_input(saved.get("meta"), cfg.model, checkpoint)
    multi_scale(cfg)
    if not any(name.startswith("head.") for name in saved.get("state_dict", saved)):
        cfg.model.pop("head", None)
    if layer is None:
        backbone = cfg.model.backbone
        convs_only = backbone.type == "vgg_mm.VGG" and not cfg.model.get("head")
        layer = stages(backbone.arch)[-1][-1].name if convs_only else "fc7"
    flip = cfg.tta_model.get("flip", True)
    cfg.tta_model = dict(type="vgg_mm.FeatureExtractor", layer=layer, stack=stack, flip=flip)
    cfg.test_dataloader.dataset = data
    if boxes:
        scales = cfg.tta_pipeline.index(multi_scale(cfg))
        cfg.tta_pipeline.insert(scales, ConfigDict(type="vgg_mm.CutBox"))
    saver = dict(type="vgg_mm.SaveFeatures", file=str(out), half=half)
    return _run(cfg, checkpoint, saver)


def _run(
    cfg: Config, checkpoint: str, saver: dict[str, Any], *hooks: dict, few: bool = False
) -> dict[str, float]:
    """Runs ``tta_model`` over ``test_dataloader``, ``saver`` keeping what it finds."""
    net = net_protocol(cfg)
    protocol = check_protocol(cfg).protocol(
        **{key: net[key] for key in ("config", "arch", "S")},
        scales=multi_scale(cfg).scales,
        checkpoint=str(checkpoint),
        sha256=file_sha256(checkpoint),
    )
    protocol |= net
    loader = cfg.test_dataloader
    loader.dataset = with_pipeline(loader.dataset, cfg.tta_pipeline)
    tested = loader.dataset.to_dict(), cfg.model.to_dict()
    parts = parts_folder(saver["file"], protocol, *tested, saver.get("half"))
    loader.collate_fn = dict(type="pseudo_collate")
    loader.sampler = dict(type="vgg_mm.RemainingSampler", parts=str(parts))
    if few:
        images = len(DATASETS.build(loader.dataset)) // get_world_size()
        loader.batch_size = min(max(1, images), loader.batch_size)
        loader.num_batch_per_epoch = 1
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    cfg.test_evaluator = dict(**saver, protocol=protocol, parts=str(parts))
    # Features are of data with classes of its own; a test is of the checkpoint's. Its weights are
    # the averages already; a hook that validated without them brings the net's own back.
    others = ("ClassesHook", "ClassCountHook", "EMAHook")
    kept = [
        hook
        for hook in cfg.get("custom_hooks") or []
        if _name(hook) not in others or hook.get("evaluate_on_ema") is False
    ]
    (cfg.get("model_wrapper_cfg") or {}).pop("shard_fc", None)  # which is for steps
    # The bar tells how far the test is, the log only its end.
    cfg.custom_hooks = [*kept, *hooks, dict(type="vgg_mm.ProgressBarHook")]
    logger = dict(type="LoggerHook", interval=sys.maxsize)
    cfg.default_hooks = {**cfg.get("default_hooks", {}), "logger": logger}
    cfg.load_from, cfg.resume = checkpoint, False
    runner = EvaluationRunner.from_cfg(cfg)
    outlive(runner.test_dataloader)
    return runner.test()


def _name(hook: dict) -> str:
    """A hook's name without its toolbox's."""
    kind = hook["type"]
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]
