"""tslab: location encoders, the models around them and the benchmark that compares them.

Everything works on ``(longitude, latitude)`` pairs in degrees, as float tensors of shape ``(n, 2)``.

What ``import tslab`` offers stands in ``__init__.pyi``. Each name is imported when it is first used, so that the import
itself takes no longer than torch's: nobody waits for pandas who only encodes places.
"""

import importlib
import pkgutil
from functools import cache
from typing import Any

import lazy_loader

__version__ = "0.1.0"

_first_used, _, __all__ = lazy_loader.attach_stub(__name__, __file__)

_MOVED = {
    "fusion": "tslab.models",
    "presence": "tslab_book.presence",
    "probes": "tslab_book.probes",
    "sweeps": "tslab_book.sweeps",
}
"""Modules that were here once, and where they are now; ``tslab_book`` is installed too."""


def __getattr__(name: str) -> Any:
    """A public name or submodule: ``import tslab`` is enough for ``tslab.plot.globe``."""
    if name in _public_submodules():
        return importlib.import_module(f"tslab.{name}")
    if name in _MOVED:
        return importlib.import_module(_MOVED[name])
    return _first_used(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_public_submodules()})


@cache
def _public_submodules() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
