"""Files of weights from anywhere, of which nothing is run and nothing believed."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from torch import Tensor

from vgg_mm.errors import UserError, library, suggest
from vgg_mm.training.checkpoints import read_checkpoint
from vgg_mm.writing import replacing


def local(source: str | os.PathLike) -> Path:
    """The file on this machine of a path, a URL or a ``torchvision://vgg16``.

    Downloads go to torch's cache, ``$TORCH_HOME/hub/checkpoints``, once; of several processes on a
    machine the first one downloads.

    Raises:
        UserError: If there is no such file, or it cannot be had.
    """
    source = str(source)
    if source.startswith("torchvision://"):
        source = _torchvision_url(source.removeprefix("torchvision://"))
    if not source.startswith(("http://", "https://")):
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(f"no file {path}.")
        return path
    name = os.path.basename(urlparse(source).path)
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if not name:
        raise UserError(f"{source} names no file.")
    try:
        if int(os.environ.get("LOCAL_RANK", get_rank())) == 0 and not path.is_file():
            _download(source, path)
    finally:
        barrier()
    if not path.is_file():
        raise UserError(f"{source} did not arrive; see the first process's error.")
    return path


def _torchvision_url(name: str) -> str:
    """The URL of a model's weights: ``vgg16``, or ``vgg16.IMAGENET1K_FEATURES`` for other ones."""
    from torchvision.models import get_model_weights, list_models

    model, _, weights = name.lower().partition(".")
    known = [vgg for vgg in list_models() if vgg.startswith("vgg")]
    if model not in known:
        raise UserError(
            f"torchvision://{name}: torchvision's VGGs are {', '.join(known)}."
            f"{suggest(model, known)}"
        )
    urls = {entry.name.lower(): entry.url for entry in get_model_weights(model)}
    weights = weights or "imagenet1k_v1"
    if weights not in urls:
        raise UserError(f"torchvision://{name}: {model} has the weights {', '.join(urls)}.")
    return urls[weights]


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
    except (URLError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{url} could not be downloaded: {error}.") from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a ``.pth`` or ``.safetensors``, by name, and a checkpoint's meta.

    Raises:
        UserError: If it is damaged, or would run something or unfold to more than its size.
    """
    if path.suffix == ".safetensors":
        safetensors = library("safetensors.torch", ".safetensors")
        try:
            return safetensors.load_file(path), {}
        except Exception as error:  # the library documents none
            raise UserError(f"{path} is damaged, or no safetensors file: {error}.") from None
    saved = read_checkpoint(path)
    state = saved.get("state_dict", saved.get("model", saved))
    meta = saved.get("meta", {})
    if not isinstance(state, dict):
        raise UserError(f"{path}: its state_dict is {type(state).__name__}, no dict of tensors.")
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and _is_plain(v)}
    return tensors, meta if isinstance(meta, dict) else {}


def _is_plain(value: object) -> bool:
    """Whether it is a tensor whose numbers the file holds one by one."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def save(saved: dict, path: str | os.PathLike) -> None:
    """Writes tensors by name as ``.safetensors``, or anything as a PyTorch file, whole or not.

    Raises:
        UserError: If the disk is full or refuses; what was there is as it was.
    """
    if Path(path).suffix == ".safetensors":
        data = library("safetensors.torch", ".safetensors").save(saved)
    else:
        buffer = io.BytesIO()  # writing to a file, torch calls a full disk a RuntimeError
        torch.save(saved, buffer)
        data = buffer.getbuffer()
    with replacing(path) as file:
        file.write(data)
