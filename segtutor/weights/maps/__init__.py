"""The key maps, one file for each family of reference networks; importing this package registers them."""

from segtutor.weights.maps import resnet, segformer, swin, vgg, vit

__all__ = ["resnet", "segformer", "swin", "vgg", "vit"]
