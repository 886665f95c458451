"""Packages that only some of tslab needs: imported where they are used, with the name of the extra that brings them."""

import importlib
from types import ModuleType


def require(package: str, extra: str) -> ModuleType:
    """Import ``package``.

    Raises:
        ImportError: it is not installed (or does not load); names ``tslab[extra]``.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this needs {package}: pip install 'tslab[{extra}]' ({error})") from error
