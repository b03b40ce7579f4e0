"""Batch normalisation on a map of one value, whichever class a network's normalisation has."""

from torch import Tensor, nn

from segtutor.layers import BatchNorm2d


def train_on_one_value(network: nn.Module) -> nn.Module:
    """Give every batch normalisation of a network the behaviour of `segtutor.layers.BatchNorm2d` on a 1x1 map."""
    for layer in network.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNorm2d
        elif isinstance(layer, nn.BatchNorm2d) and not isinstance(layer, BatchNorm2d):  # timm's, with its activation
            layer.register_forward_pre_hook(_take_running_statistics)
            layer.register_forward_hook(_give_back_training, always_call=True)
    return network


def _take_running_statistics(layer: nn.Module, inputs: tuple[Tensor]) -> None:
    if layer.training and inputs[0].numel() == inputs[0].shape[1]:
        layer.training, layer.had_one_value = False, True


def _give_back_training(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    if layer.__dict__.pop("had_one_value", False):
        layer.training = True
