"""A saved model: one folder with its weights and what must be known to use them, here or on the Hugging Face hub."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import segtutor
from segtutor.factory.config import ConfigError
from segtutor.files import whole_file, write_text

FILES = ("config.json", "model.safetensors")


def write_model(folder: Path | str, config: Mapping, info: Mapping, tensors: Mapping[str, Tensor]) -> Path:
    """Write ``model.safetensors``, ``config.json`` and a model card into a folder, each complete or not at all.

    Args:
        folder: made where it is missing; a ``README.md`` that is there stays as it is.
        config: the configuration that the model is built from, plain values.
        info: what it knows of images and labels, plain values.
        tensors: its weights.

    Returns:
        The folder.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"segtutor": segtutor.__version__, "config": dict(config), "info": dict(info)}
    config_path, weights_path = (folder / name for name in FILES)
    with whole_file(weights_path) as path:
        try:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))  # of the system, such as 28 for a full disk
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(weights_path)) from None
    write_text(config_path, json.dumps(facts, indent=2) + "\n")
    if not (folder / "README.md").exists():  # somebody may have written one
        write_text(folder / "README.md", model_card(config, info, sum(tensor.numel() for tensor in tensors.values())))
    return folder


def model_card(config: Mapping, info: Mapping, size: int) -> str:
    """What a person should know of a saved model before using it, in the form that the Hugging Face hub shows.

    Args:
        config, info: as for `write_model`.
        size: how many numbers its weights are.
    """
    backbone, head = config["backbone"], config["head"]
    names = info.get("classes") or [f"class {label}" for label in range(config["num_classes"])]
    rows = "".join(f"| {label} | {name} |\n" for label, name in enumerate(names))
    licence = "license: other\n" if backbone["type"] == "segformer" and backbone.get("pretrained") else ""
    note = "\nIts backbone started from NVIDIA's weights, which are for non-commercial use.\n" if licence else ""
    return f"""\
---
library_name: segtutor
pipeline_tag: image-segmentation
{licence}---
# Semantic segmentation: {backbone["type"]} with head {head["type"]}

{size:,} numbers, saved by segtutor {segtutor.__version__}. It takes images of {config.get("in_channels", 3)} channels,
scaled to [0, 1] and normalised with mean {info.get("mean")} and standard deviation {info.get("std")}.
{note}
| label | class |
|---|---|
{rows}
```python
from PIL import Image
from segtutor.factory import SegmentationModel
from segtutor.inference import predict

model = SegmentationModel.from_pretrained("this/folder")
labels = predict(model, Image.open("photo.jpg"))
```

On which data it was trained, how well it scores and what it must not be used for stands nowhere yet: write it here.
"""


def read_model(name: Path | str) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """Read a saved model.

    Args:
        name: its folder, or a repository of the Hugging Face hub as "owner/name".

    Returns:
        The folder, what ``config.json`` says, and the weights.

    Raises:
        ConfigError: the folder is missing or holds no saved model, or the hub could not be reached.
    """
    folder = Path(name) if Path(name).is_dir() else _from_hub(str(name))
    return folder, *_read_folder(folder)


def upload(folder: Path, name: str, *, private: bool, token: str | None) -> str:
    """Upload the folder of a saved model to the Hugging Face hub, and return the address of the commit."""
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    repository = hub.create_repo(name, private=private, exist_ok=True).repo_id
    return str(hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Save the model"))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # offline, no such repository, no such name: each has a type of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{name} is no folder, and could not be fetched from the hub ({reason}).") from None


def _read_folder(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config, weights = (folder / name for name in FILES)
    for path in (config, weights):
        if not path.is_file():
            raise ConfigError(f"{folder} holds no saved model: {path.name} is missing.")
    try:
        facts, tensors = json.loads(config.read_text(encoding="utf-8")), load_file(weights)
        if not all(isinstance(facts[key], dict) for key in ("config", "info")):
            raise KeyError("config and info")
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(f"{folder} holds no readable model ({error}): save it again, or fetch it again.") from None
    return facts, tensors
