"""Files of weights: read from disk, fetched from torchvision's servers or from the Hugging Face hub."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# What a repository of the hub, or its local copy, keeps its weights in: the first that is there is read.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# Under these names a checkpoint that holds more than weights keeps them (OpenMMLab, Lightning and others).
STATES = ("state_dict", "model")


class WeightsError(RuntimeError):
    """Published weights could not be fetched or read."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a file of weights, without executing anything that is in it.

    Args:
        path: a .safetensors, .pth or .bin file, or a folder copied from the Hugging Face hub.

    Raises:
        WeightsError: no such file, or no state dict in it.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in HUB_FILES if (path / name).is_file()), path)
    if not path.is_file():
        raise WeightsError(
            f"{path} is not a file: pass the path of a .safetensors, .pth or .bin file of weights, or of a folder with "
            f"{' or '.join(HUB_FILES)} in it."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own errors, and a reader needs one answer
        raise WeightsError(
            f"{path} could not be read as weights: it must be .safetensors or a saved state dict."
        ) from error
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    inner = [content[name] for name in STATES if isinstance(content, Mapping) and name in content]
    for tensors in (content, *inner):
        if isinstance(tensors, Mapping) and all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            return dict(tensors)
    raise WeightsError(f"{path} holds no plain state dict: save model.state_dict() and pass that file.")


def fetch_url(url: str, progress: bool) -> dict[str, Tensor]:
    """Fetch into torch hub's cache; the file's name carries its hash, which is checked before the file is kept.

    Raises:
        WeightsError: no connection, or a damaged file.
    """
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=progress, check_hash=True, weights_only=True
        )
    except OSError as error:
        raise WeightsError(
            f"{url} could not be fetched ({error}): connect to the internet once, or pass path= to a local copy."
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise WeightsError(
            f"The file fetched from {url} is damaged ({error}): delete it from {torch.hub.get_dir()} and try again."
        ) from error


def fetch_from_hub(repository: str) -> dict[str, Tensor]:
    """Fetch the weights of a repository "owner/name" of the Hugging Face hub into the hub's cache, and read them.

    Raises:
        WeightsError: no connection, no such repository, or no file of weights in it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in HUB_FILES:
        try:
            return read_weights(hf_hub_download(repository, name))
        except WeightsError:
            raise
        except Exception as error:  # no network, no such repository, a full disk: each has its own error
            absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
            if not absent or name == HUB_FILES[-1]:
                reason = str(error).partition("\n")[0]
                raise WeightsError(
                    f"{name} of {repository} could not be fetched from the Hugging Face hub ({reason}): connect to the "
                    "internet once, check the name, or pass path= to a local copy."
                ) from error
    raise AssertionError("the last file either was read or raised")
