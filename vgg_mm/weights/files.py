"""Files of weights from anywhere, of which nothing is run and nothing believed."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine import fileio
from mmengine.dist import barrier, get_rank
from mmengine.runner import checkpoint as mmengines
from safetensors.torch import load_file
from torch import Tensor

from vgg_mm.demo import named
from vgg_mm.errors import UserError, library, suggest
from vgg_mm.weights.checkpoint import read_checkpoint
from vgg_mm.weights.folder import WEIGHTS, meta_beside
from vgg_mm.writing import replacing

# The beginning of a file's SHA-256 in its name, which is no date.
DIGEST = re.compile(r"-(?!(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\.)([0-9a-f]{8,})\.")
LISTS = {
    "torchvision": mmengines.get_torchvision_models,
    "modelzoo": mmengines.get_torchvision_models,
    "open-mmlab": mmengines.get_external_models,
    "openmmlab": mmengines.get_external_models,
    "mmcls": mmengines.get_mmcls_models,
}
# How files begin, or what the names in a zip end with, that hold no weights for us.
REFUSED = {
    rb"MATLAB": "a MATLAB file, such as MatConvNet's",
    rb"\x93NUMPY": "NumPy's .npy",
    rb"\x1f\x8b": "compressed (gzip): unpack it",
    rb"BZh": "compressed (bzip2): unpack it",
    rb"\xfd7zXZ": "compressed (xz): unpack it",
    rb"\x28\xb5\x2f\xfd": "compressed (zstd): unpack it",
    rb"\s*<": "a web page",
    rb"version https://git-lfs": "a pointer of Git LFS, not the file itself: git lfs pull",
    rb".{4}TFL3": "TensorFlow Lite's",
    rb"([\x81-\x8f]|\xde..)[\xa1-\xbf\xd9]": "MessagePack, as flax writes it",
}
REFUSED_ZIPS = {
    ".npy": "NumPy's .npz",
    "constants.pkl": "TorchScript, a program: save the module's state_dict",
    "archive_format": "torch.export's .pt2, a program: save the module's state_dict",
    "serialized_exported_program.json": "torch.export's .pt2, a program: save its state_dict",
}
ENDINGS = {
    ".caffemodel": "caffe",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".keras": "keras",
    ".onnx": "onnx",
    ".safetensors": "safetensors",
}


def local(source: str | os.PathLike) -> Path:
    """The file on this machine of a path or an address.

    A folder, as :meth:`vgg_mm.Net.save` writes it, stands for its ``model.safetensors``, and
    ``demo`` for the package's own net. Addresses are URLs, mmengine's names of models
    (``torchvision://vgg16``, ``open-mmlab://vgg16_caffe``, ``mmcls://vgg16``), the Hub's
    (``hf://org/name@revision``, see :func:`hub_folder`) and what its file backends know, such as
    ``s3://``. Downloads go to torch's cache, ``$TORCH_HOME/hub/checkpoints``, once; of several
    processes on a machine the first one downloads.

    Raises:
        UserError: If there is no such file, or it cannot be had.
    """
    asked = source = str(source)
    scheme, _, name = source.partition("://")
    if scheme == "hf":
        source = os.path.join(hub_folder(source), WEIGHTS)
    if scheme in LISTS:
        source = _listed(scheme, name)
    if "://" not in source:
        path = Path(named(source)).expanduser()
        if path.is_dir():
            path /= WEIGHTS
        if not path.is_file():
            said = "" if asked == source else f", which {asked} stands for"
            raise UserError(f"no file {path}{said}.")
        return path
    name = os.path.basename(urlparse(source).path)
    if not name:
        raise UserError(f"{source} names no file.")
    folder = Path(torch.hub.get_dir(), "checkpoints")
    digest = DIGEST.search(name)
    if not digest or not source.startswith("http"):  # it may come from elsewhere too
        folder /= hashlib.sha256(source.encode()).hexdigest()[:12]
    path = folder / name
    try:
        if int(os.environ.get("LOCAL_RANK", get_rank())) == 0 and not path.is_file():
            said = source if asked == source else f"{asked} is {source}, which"
            _download(source, path, digest and digest[1], said)
    finally:
        barrier()
    if not path.is_file():
        raise UserError(f"{source} did not arrive; see the first process's error.")
    return path


def hub_folder(address: str) -> str:
    """The folder of a net on the Hub, ``hf://org/name`` or ``hf://org/name@revision``.

    Its config.json and model.safetensors are fetched once, into huggingface_hub's cache, which is
    also what serves without a network (``HF_HUB_OFFLINE=1``).

    Raises:
        UserError: If it cannot be had.
    """
    hub = library("huggingface_hub", "hf://")
    name, _, revision = address.removeprefix("hf://").partition("@")
    try:
        folder = hub.snapshot_download(
            name, revision=revision or None, allow_patterns=["config.json", WEIGHTS]
        )
    except Exception as error:  # the Hub's, httpx's and the system's
        line = str(error).strip().split("\n")[0]
        raise UserError(f"{address} could not be had: {type(error).__name__}: {line}") from None
    if not os.path.isfile(os.path.join(folder, WEIGHTS)):
        raise UserError(f"{address} has no {WEIGHTS}; no other file of the Hub is read.")
    return folder


def _listed(scheme: str, name: str) -> str:
    """What a name in mmengine's lists stands for: a URL, or a path under mmengine's home."""
    urls = LISTS[scheme]()
    name = name.lower() if scheme in ("torchvision", "modelzoo") else name
    if scheme in ("open-mmlab", "openmmlab"):
        name = mmengines.get_deprecated_model_names().get(name, name)
    if name not in urls:
        known = [key for key in urls if key.partition(".")[0] == name.partition(".")[0]]
        known = known or [key for key in urls if key.startswith("vgg")]
        raise UserError(
            f"{scheme}://{name} is not in mmengine's list, which has {', '.join(known)}."
            f"{suggest(name, known)}"
        )
    url = urls[name]
    return url if "://" in url else os.path.join(mmengines._get_mmengine_home(), url)


def _download(url: str, path: Path, digest: str | None, said: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if url.startswith(("http://", "https://")):
            torch.hub.download_url_to_file(url, str(path), digest, progress=False)
        else:
            data = fileio.get(url)
            with replacing(path) as file:
                file.write(data)
    except Exception as error:  # backends raise nearly any
        plain = isinstance(error, OSError | RuntimeError | ValueError | ImportError)
        why = str(error) if plain else f"{type(error).__name__}: {error}"
        raise UserError(f"{said} could not be downloaded: {why}. Its place is {path}.") from None


def format_of(path: Path) -> str:
    """What a file is by its content, or where that does not tell, by its ending.

    Returns:
        torch or a value of :data:`ENDINGS`.

    Raises:
        UserError: If it is something that is not read; it is named.
    """
    try:
        with path.open("rb") as file:
            head = file.read(600)
            file.seek(max(path.stat().st_size - 8, 0))
            tail = file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    what = next((said for start, said in REFUSED.items() if re.match(start, head, re.S)), None)
    ending = ENDINGS.get(path.suffix)
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as packed:
                names = packed.namelist()
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
            return "keras" if ending == "keras" else "torch"
        if "model.weights.h5" in names:
            return "keras"
        found = (said for end, said in REFUSED_ZIPS.items() for n in names if n.endswith(end))
        what = next(found, None)
    elif tail == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb" or ".data-0000" in path.name:
        what = "a checkpoint of TensorFlow"
    elif path.suffix == ".pb":
        what = "a graph of TensorFlow"
    if what:
        raise UserError(f"{path} is {what}, which is not read.")
    if head.startswith(b"\x89HDF"):
        return "hdf5"
    if ending is None and head[:1] in (b"\x08", b"\x0a"):  # ONNX's version, Caffe's name
        return {b"\x08": "onnx", b"\x0a": "caffe"}[head[:1]]
    return "torch" if head[:1] in (b"\x80", b"P") else ending or "torch"


@contextmanager
def damage_named(path: Path, otherwise: str = "") -> Iterator[None]:
    """Names the file in whatever a reader raises of a damaged one, or what it is ``otherwise``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # HDF5, protobuf and onnxruntime raise nearly any
        what = f"{path} is damaged{otherwise and ', '}{otherwise}"
        line = (str(error) or type(error).__name__).strip().split("\n")[0].strip(".")
        raise UserError(f"{what}: {line}.") from None


def read_tensors(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """The tensors of a PyTorch or ``.safetensors`` file, and a checkpoint's or its folder's meta.

    Returns:
        The dicts in the file that hold tensors, each by its place in it (``""`` for the file's own,
        ``state_dict``, ``ema.model``), and in each the tensors by name.

    Raises:
        UserError: If it is damaged, or would run something or unfold to more than its size.
    """
    if format_of(path) == "safetensors":
        with damage_named(path, "or no safetensors file"):
            return {"": load_file(path)}, meta_beside(path)
    saved = read_checkpoint(path)
    meta = saved.get("meta", {})
    groups: dict[str, dict[str, Tensor]] = {}
    _collect(saved, "", groups)
    return groups, meta if isinstance(meta, dict) else {}


def _collect(saved: dict, place: str, groups: dict[str, dict[str, Tensor]], depth: int = 3) -> None:
    for key, value in saved.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = torch.from_numpy(value)
        if isinstance(value, dict) and depth:
            _collect(value, f"{place}.{key}".lstrip("."), groups, depth - 1)
        elif (
            isinstance(key, str)
            and isinstance(value, Tensor)
            and value.layout is torch.strided
            and value.device.type == "cpu"
            and not value.is_quantized
        ):  # the file holds its numbers one by one
            groups.setdefault(place, {})[key] = value
