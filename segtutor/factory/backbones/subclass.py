"""Give one module, and no other of its class, further methods.

A method that is set on an object stays bound to it, in copies too: the replicas of DataParallel would run the
original's layers. So the object gets a class of its own instead, made of a mixin and the class that it had.
"""

from functools import cache
from typing import Any, TypeVar, cast

from torch import nn

MadeOf = tuple[type, type]  # the mixin, and the class that the module had
Mixin = TypeVar("Mixin", bound=nn.Module)


def extend(module: nn.Module, mixin: type[Mixin]) -> Mixin:
    """Put a mixin before a module's class, in place; copying, pickling and ``isinstance`` go on as before.

    Args:
        module: changed in place.
        mixin: a class of modules that leaves their making, and all that it does not mention, to the class behind it.

    Returns:
        The module.
    """
    module.__class__ = _extended((mixin, type(module)))
    return cast(Mixin, module)


def restore(module: nn.Module, mixin: type) -> None:
    """Take back `extend`; a module without that mixin stays as it is."""
    made_of: MadeOf | None = getattr(type(module), "made_of", None)
    if made_of is not None and made_of[0] is mixin:
        module.__class__ = made_of[1]


@cache
def _extended(made_of: MadeOf) -> Any:
    mixin, kind = made_of
    members = {"made_of": made_of, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (mixin, _Rebuilt, kind), members)


class _Rebuilt:
    """Pickles an object of such a class, which no module holds under its name, by what it is made of."""

    made_of: MadeOf

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        _, _, *state = tuple(super().__reduce_ex__(max(2, protocol)))
        return (_blank, (self.made_of,), *state)


def _blank(made_of: MadeOf) -> Any:
    new: Any = made_of[1].__new__
    return new(_extended(made_of))
