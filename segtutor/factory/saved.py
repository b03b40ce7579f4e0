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
    """Write ``model.safetensors`` and ``config.json`` into a folder, each complete or not at all.

    Args:
        folder: made where it is missing.
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
    return folder


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
