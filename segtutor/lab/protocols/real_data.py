"""The real images that experiments train on, each set prepared in one way."""

from typing import Any

from torch.utils.data import Subset

from segtutor.lab.harness import BenchmarkError

Split = Any  # a Dataset of (image (C, H, W), mask (H, W)); a whole split has ``.spec``


def _need(name: str, folder: str) -> None:
    from segtutor.data import available

    if not available(name):
        raise BenchmarkError(f"This experiment needs {name}: set SEGTUTOR_DATA to the folder that holds {folder}/.")


def camvid(size: tuple[int, int], crop: tuple[int, int]) -> tuple[Split, Split]:
    """CamVid's training set, augmented and kept in memory, and its test set.

    Args:
        size: (height, width) of the images.
        crop: (height, width) of the crops to train on.

    Raises:
        BenchmarkError: When the data are not on this machine.
    """
    from segtutor.data import CamVid
    from segtutor.data.transforms import eval_transform, train_transform

    _need("CamVid", "camvid")
    spec = CamVid("train").spec
    train = CamVid("train", size=size, transform=train_transform(spec, crop=crop, scale=(0.8, 1.25)))
    return train.keep_in_memory(), CamVid("test", size=size, transform=eval_transform(spec))


def tissue(quick: bool) -> tuple[Split, Split]:
    """Training and test tiles of 128x128 of the Drosophila set; eight test tiles in a quick run.

    Raises:
        BenchmarkError: When the data are not on this machine.
    """
    from segtutor.data import DrosophilaVNC
    from segtutor.data.transforms import eval_transform

    _need("DrosophilaVNC", "vnc")
    prepare = eval_transform(DrosophilaVNC("train").spec)
    train, test = (DrosophilaVNC(split, tile=128, transform=prepare) for split in ("train", "test"))
    return train, Subset(test, range(8)) if quick else test
