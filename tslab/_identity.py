"""Which encoder is it? A hash of everything that decides what a module computes, so that a job that was stopped goes
on with the very same one only.

In the hash are the weights, all buffers, the attributes of every module (scales, options) and the source of its
methods. What cannot be read in this way has no identity: a lambda, a closure, an object in an attribute, a hook.
"""

import hashlib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tslab.encoders.storage import unwrap

BOOKKEEPING = {*vars(nn.Module()), "_is_torch_compile", "_compiled_call_impl"}
"""Attributes that every module has, or that a compiler adds; weights, buffers and submodules are read in their own
way."""

PLAIN = bool | int | float | complex | str | bytes | np.generic | torch.dtype | torch.device
"""What its own text says all about."""


class NoIdentityError(ValueError):
    """Something whose behaviour cannot be told from outside."""


def identity_of(encoder: Callable[..., Any]) -> str | None:
    """A hash of a module, or of a method of one; None for a function without identity."""
    digest, owner = hashlib.sha256(), owner_of(encoder)
    if owner is None:
        return None
    try:
        _add(digest, ("" if owner is encoder else getattr(encoder, "__name__", ""), owner))
    except (NoIdentityError, RecursionError):
        return None
    return digest.hexdigest()


def owner_of(encoder: Callable[..., Any]) -> nn.Module | None:
    """The module that computes: the encoder itself, or the one that it is a method of."""
    owner = encoder if isinstance(encoder, nn.Module) else getattr(encoder, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _add(digest: Any, value: Any) -> None:
    """Put a value with all its parts into the hash."""
    if isinstance(value, nn.Module):
        value = unwrap(value)
    digest.update(f"{type(value).__name__}(".encode())
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, types.FunctionType) and value.__closure__ is None and "<" not in value.__qualname__:
        digest.update(f"{value.__module__}.{value.__qualname__}{_source(value)}".encode())
    elif isinstance(value, type | types.BuiltinFunctionType):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
    elif value is None or isinstance(value, PLAIN):
        digest.update(repr(value).encode())
    else:
        for part in _parts_of(digest, value):
            _add(digest, part)
    digest.update(b")")


def _parts_of(digest: Any, value: Any) -> Iterable[Any]:
    if isinstance(value, nn.Module):
        if value._forward_hooks or value._forward_pre_hooks:
            raise NoIdentityError("a hook")
        _add_class(digest, type(value))
        own = {name: part for name, part in vars(value).items() if name not in BOOKKEEPING}
        return [value._parameters, value._buffers, own, value._modules]
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple):
        return value
    raise NoIdentityError(type(value).__name__)


def _add_class(digest: Any, kind: type) -> None:
    """Name and source of a class and of those that it inherits from, as far as they are not torch's."""
    for ancestor in kind.__mro__:
        name = f"{ancestor.__module__}.{ancestor.__qualname__}"
        digest.update(name.encode())
        if ancestor.__module__.split(".")[0] not in ("torch", "builtins"):
            for member, value in sorted(vars(ancestor).items()):
                value = getattr(value, "__wrapped__", getattr(value, "fget", value))
                if isinstance(value, types.FunctionType):
                    digest.update(f"{member}{_source(value)}".encode())


def _source(function: types.FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        raise NoIdentityError(f"{function.__qualname__}, whose source is not at hand") from None
