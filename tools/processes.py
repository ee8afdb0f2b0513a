"""The processes that a command runs in."""

from __future__ import annotations

import gc
import os
from functools import cache

import torch
import torch.distributed as dist
from mmengine.config import Config

from vgg_mm.errors import UserError
from vgg_mm.upstream import format_configs_once


@cache
def prepare_process() -> None:
    """Spares this process work that nobody wants done.

    mmengine formats a config once alone; its search for garbage, at every data set that is built,
    passes over what has been imported; and what dies out in a net, momenta above all, ends in
    numbers so small that CPUs crawl over them: they are 0 from here on.
    """
    format_configs_once()
    gc.freeze()
    torch.set_flush_denormal(True)


def start_processes(cfg: Config) -> None:
    """Joins the other processes of a distributed run on a machine without CUDA.

    mmengine's pytorch launcher takes a GPU for granted; it starts the group by itself where there
    is one, and leaves a group alone that it finds started. Processes that torchrun started anew
    meet in a part of its store that is their own, for those that died have left their addresses.
    """
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    cuda = torch.cuda.is_available()
    if cfg.launcher == "none" or (cuda and not restart):
        return
    if cfg.launcher != "pytorch":
        raise UserError(f"--launcher {cfg.launcher} needs CUDA; on CPUs use 'pytorch' (torchrun).")
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"restart_{restart}", store)
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
