"""The smallest runs that are whole: a backbone of one convolution and drawn streets, for tests of the command line.

As a file of its own, so that a process of its own can have it too.
"""

import os
import signal

from torch import nn
from torch.nn import functional as F

from segtutor.factory import Features
from segtutor.factory.backbones import registry


class Pools(nn.Module):
    """Average pooling and one convolution per level: the cheapest thing that is a backbone."""

    strides = (4, 8, 16, 32)

    def __init__(self, in_channels, *, width: int = 4, pretrained: bool = False):
        super().__init__()
        self.channels = (width,) * 4
        self.convolution = nn.Conv2d(in_channels, width, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, images):
        x = self.norm(self.convolution(images))
        return Features(*(F.avg_pool2d(x, stride, ceil_mode=True) for stride in self.strides))


ENTRY = registry.Entry(Pools, None, {"pools": {}})
CONFIG = {
    "model": {"backbone": "pools", "head": "fcn"},
    "data": {"type": "scenes", "size": [32, 48], "length": 8},
    "training": {"steps": 6, "batch_size": 2, "lr": 0.01, "precision": "fp32"},
    "logging": {"report": False},
}


def register():
    """Make the backbone known in a process of its own; tests do so by monkeypatch."""
    registry.BACKBONES["pools"] = ENTRY


def interrupt_at_the_first_history(monkeypatch, module):
    """Send Ctrl-C where `module`, that of `train`, writes its first curves, in the middle of the run."""
    written, caught = module.write_json, []

    def interrupt(path, value):
        written(path, value)
        if path.name == "history.json" and not caught:
            caught.append(path)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module, "write_json", interrupt)
