"""Shared fixtures: where the released files and the golden numbers are, and what a skipped test needs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import pytest


@pytest.fixture(scope="session")
def mirror() -> Path:
    """Folder laid out like the TorchSpatial repository (holds ``eval_results/``)."""
    root = os.environ.get("TSLAB_MIRROR")
    if not root:
        pytest.skip("needs the released TorchSpatial files: set TSLAB_MIRROR to a folder that holds TorchSpatial/")
    for folder in (Path(root) / "TorchSpatial", Path(root)):
        if (folder / "eval_results").is_dir():
            return folder
    pytest.fail(f"TSLAB_MIRROR={root} holds neither eval_results/ nor TorchSpatial/eval_results/")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with the golden numbers that come with the tests, see its README."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_of_released() -> Path:
    """Folder with the golden numbers that rest on the released files (``checkpoint_outputs.npz`` and ``geobias/``)."""
    candidates = []
    if root := os.environ.get("TSLAB_GOLDEN"):
        candidates.append(Path(root))
    if root := os.environ.get("TSLAB_MIRROR"):
        candidates.append(Path(root) / ".." / "reference" / "golden")
    for folder in candidates:
        if (folder / "checkpoint_outputs.npz").is_file():
            return folder.resolve()
    pytest.skip("needs the golden numbers of the released files: set TSLAB_GOLDEN to the folder that holds them")


def pytest_configure(config: pytest.Config) -> None:
    """With TSLAB_STRICT_WARNINGS=1 (`make test-versions`), what a line of tslab is warned of is an error; the warnings
    with which tslab itself tells something (UserWarning) are none."""
    if os.environ.get("TSLAB_STRICT_WARNINGS"):
        for kind in ("Deprecation", "PendingDeprecation", "Future", "Runtime", "Resource", "Syntax"):
            config.addinivalue_line("filterwarnings", rf"error::{kind}Warning:tslab(\..*)?\Z")
    if config.getoption("jaxtyping_packages", None):
        pytest.raises = _raises_unchecked(pytest.raises)


def _raises_unchecked(raises: Any) -> Any:
    """``pytest.raises`` of `make test-shapes`: what is refused often has a wrong type, so none is checked in there."""

    @contextmanager
    def unchecked(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with raises(*args, **kwargs) as caught:
            before = jaxtyping.config.jaxtyping_disable
            jaxtyping.config.update("jaxtyping_disable", True)
            try:
                yield caught
            finally:
                jaxtyping.config.update("jaxtyping_disable", before)

    return unchecked
