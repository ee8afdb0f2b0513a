"""Nets as folders that others can read: model.safetensors, config.json and README.md."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from vgg_mm.errors import UserError
from vgg_mm.inputs import Input
from vgg_mm.models import VGG, VGGFC, BoxHead, VGGHead
from vgg_mm.writing import new_folder

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TIMMS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


def plain_model(model: Mapping[str, Any], name: str | os.PathLike) -> dict[str, Any]:
    """Of a config's ``model`` in the file ``name`` what a file may decide.

    A registry builds anything that a config names; a file's own config builds our parts alone, with
    arguments of plain values.

    Returns:
        An ImageClassifier's config, without initialisation.

    Raises:
        UserError: If it is made of other parts.
    """
    parts: dict[str, Any] = {"backbone": VGG, "head": VGGHead | BoxHead, "neck": None}
    kinds = {"VGG": VGG, "VGGHead": VGGHead, "BoxHead": BoxHead}
    plain: dict[str, Any] = dict(type="ImageClassifier")
    for part, allowed in parts.items():
        given: Any = model.get(part)
        if given is None and part != "backbone":
            continue
        type_ = given.get("type", "?") if isinstance(given, Mapping) else "?"
        kind = kinds.get(str(type_).removeprefix("vgg_mm."))
        if kind is None or allowed is None or not issubclass(kind, allowed):
            raise UserError(
                f"{name} is of a net with a {part} of {type_}, which its own config does not "
                "build: load(CONFIG, weights=FILE)."
            )
        bases = [base for base in kind.__mro__ if base in (VGG, VGGFC, VGGHead, BoxHead)]
        known = {key for base in bases for key in signature(base).parameters} - {"init_cfg"}
        plain[part] = dict(type=f"vgg_mm.{kind.__name__}")
        plain[part] |= {key: given[key] for key in given if key in known}
    if norm := plain["backbone"].get("norm_cfg"):
        if not isinstance(norm, Mapping) or norm.get("type") != "BN":
            raise UserError(f"{name}: norm_cfg={norm!s:.99} is no batch norm.")
        plain["backbone"]["norm_cfg"] = dict(type="BN", eps=norm.get("eps", 1e-5))
    return plain | dict(data_preprocessor=Input.of_config(model).preprocessor())


def read_config(text: str) -> dict[str, Any]:
    """The plain values of the config that a checkpoint's meta holds as text, which is not run."""
    values: dict[str, Any] = {}
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError):  # somebody's note
        return values
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = _value(statement.value)
            except ValueError:  # an object's text
                continue
    return values


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {str(each.arg): _value(each.value) for each in node.keywords}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(each) for each in node.elts]
    return ast.literal_eval(node)


def read_folder(folder: str | os.PathLike) -> dict[str, Any]:
    """What a folder's config.json says, in our terms, whoever wrote it.

    Returns:
        ``model``, an ImageClassifier's config, or ``arch`` alone where timm or
        transformers wrote it; ``input`` and ``classes`` where known; ``protocol``, ``scales`` and
        ``measured`` of ours.

    Raises:
        UserError: If it is missing, damaged, or of no VGG.
    """
    path = Path(folder, CONFIG)
    try:
        said = json.loads(path.read_text())
        if "model" in said:
            trained_on = Input.of(said["input"], path)
            model = {**said["model"], "data_preprocessor": trained_on.preprocessor()}
            return {**said, "model": plain_model(model, path), "input": trained_on}
        arch = TIMMS[said["architecture"].partition("_bn")[0].partition(".")[0]]
        timms = said.get("pretrained_cfg") or said
        names = said.get("label_names") or timms.get("label_names") or said.get("id2label")
        if isinstance(names, dict):  # by their numbers
            names = [names[key] for key in sorted(names, key=int)]
        trained_on = Input.of(
            dict(order="RGB", top=1, mean=tuple(timms["mean"]), std=tuple(timms["std"])), path
        )
        return dict(arch=arch, input=trained_on, classes=names)
    except OSError as error:
        best = Path(folder, "best.pth")
        hint = f" For the net of a run name {best}." if best.exists() else ""
        raise UserError(f"{path}: {error.strerror}; a folder of weights has it.{hint}") from None
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is no VGG's config of vgg_mm, timm or transformers ({error!r:.99})."
        ) from None


def meta_beside(path: Path) -> dict[str, Any]:
    """What the config.json beside a folder's weights says, as a checkpoint's meta would."""
    try:
        said = read_folder(path.parent) if path.name == WEIGHTS else {}
    except UserError:  # another kind of net's
        return {}
    meta: dict[str, Any] = dict(input=asdict(said["input"])) if said else {}
    meta["model"] = said.get("model")
    return meta | (dict(dataset_meta=dict(classes=said["classes"])) if said.get("classes") else {})


def write_folder(folder: str | os.PathLike, net: nn.Module, said: Mapping[str, Any]) -> None:
    """Writes a net's weights, its config.json and its README.md, all or nothing.

    Args:
        folder: Its name.
        net: The net.
        said: What :func:`read_folder` returns, the input as a dict.

    Raises:
        UserError: If the folder is there already, or cannot be written.
    """
    state: dict[str, Tensor] = {k: v.cpu().contiguous() for k, v in net.state_dict().items()}
    with new_folder(folder) as place:
        # save_file would keep it from all other users.
        (place / WEIGHTS).write_bytes(save(state, {"format": "pt"}))
        (place / CONFIG).write_text(json.dumps(said, indent=1) + "\n")
        (place / "README.md").write_text(_card(Path(folder).name, net, said))


def _card(name: str, net: Any, said: Mapping[str, Any]) -> str:
    """A model card in the Hub's form."""
    seen, how, conv = said["input"], said["protocol"], net.backbone.conv1_1
    lines = [
        "---\nlibrary_name: vgg_mm\npipeline_tag: image-classification\n---",
        f"# {name}",
        "",
        f"- net {net.backbone.arch} of Table 1 (arXiv:1409.1556), conv1_1 of {conv.out_channels} "
        f"channels, {net.head.num_classes if net.head else 0} outputs",
        f"- input: {seen['order']} from 0 to 255, mean {seen['mean']}, divided by {seen['std']}",
        f"- protocol: {how.get('views', 'dense')}, shortest side "
        f"{', '.join(map(str, said['scales']))}{', with the mirror image' * how.get('flip', True)}",
    ]
    lines += [f"- {said['measured']}"] if said["measured"] else []
    use = f'import vgg_mm\nnet = vgg_mm.load("{name}")\nnet.predict("image.jpg")'
    return "\n".join([*lines, "", "```python", use, "```", ""])
