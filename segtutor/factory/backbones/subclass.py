"""Give one module, and no other of its class, further methods.

A method that is set on an object stays bound to it, in copies too: the replicas of DataParallel would run the
original's layers. So the object gets a class of its own instead, made of a mixin and the class that it had.
"""

from functools import cache
from typing import Any

from torch import nn


def extend(module: nn.Module, mixin: type) -> None:
    """Put a mixin before a module's class, in place; copying, pickling and ``isinstance`` go on as before."""
    module.__class__ = _extended(type(module), mixin)


def restore(module: nn.Module, mixin: type) -> None:
    """Take back `extend`; a module without that mixin stays as it is."""
    made_of: tuple[type, type] | None = getattr(type(module), "made_of", None)
    if made_of is not None and made_of[0] is mixin:
        module.__class__ = made_of[1]


@cache
def _extended(kind: type, mixin: type) -> type:
    members = {"made_of": (mixin, kind), "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (mixin, _Rebuilt, kind), members)


class _Rebuilt:
    """Pickles an object of such a class, which no module holds under its name, by what it is made of."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        _, _, *state = super().__reduce_ex__(max(2, protocol))
        return (_blank, (self.made_of,), *state)


def _blank(made_of: tuple[type, type]) -> Any:
    mixin, kind = made_of
    return kind.__new__(_extended(kind, mixin))
