"""The explorer in a real JupyterLab: its kernel computes, and what arrives in the browser is what torch computes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from .conftest import Explorer
from .test_widget import check_against_torch

NOTEBOOKS = {
    "explorer": ["from tslab.widgets import EncoderExplorer\nEncoderExplorer('sphere2vec_sphereC+')"],
    "laboratory": [
        "from tslab_book.laboratory import Laboratory\nLaboratory('xyz')",
        '<a href="#a=wrap&amp;b=xyz&amp;place=0,90&amp;species=Ross">Wrap beside xyz</a>',
    ],
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab to which the name of a notebook is added; its files have their own folder."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install jupyterlab")
    home = tmp_path_factory.mktemp("jupyterlab")
    for name, (code, *texts) in NOTEBOOKS.items():
        cells = [nbformat.v4.new_code_cell(code), *map(nbformat.v4.new_markdown_cell, texts)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, home / f"{name}.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    environment = os.environ | {name: str(home / folder) for name, folder in folders.items()}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
               "--IdentityProvider.token=", f"--ServerApp.root_dir={home}", "--LabApp.news_url="]  # fmt: skip
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}/"
    try:
        _wait_for(address + "api/status", server, home / "server.log")
        yield address + "lab/tree/"
    finally:
        server.terminate()
        server.wait(timeout=20)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    for _ in range(round(seconds / 0.25)):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                json.load(answer)
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if server.poll() is not None:
                break
            time.sleep(0.25)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def run_first_cell(widget: Explorer, address: str) -> None:
    page = widget.page
    page.set_default_timeout(60_000)
    page.goto(f"{address}?reset")
    page.get_by_text("Python 3").filter(visible=True).first.wait_for()
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for(state="attached")
    cell = page.locator(".jp-Notebook .jp-CodeCell").first
    for _ in range(20):  # the notebook does not yet listen to keys when it is first seen
        cell.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(500)
        if cell.locator(".jp-InputArea-prompt").inner_text() != "[ ]:":
            break
    page.wait_for_selector(".tslab-explorer canvas")


def test_the_explorer_is_live_in_jupyterlab(lab: str, explorer: Callable[..., Explorer]) -> None:
    widget = explorer(width=1300)
    page = widget.page
    run_first_cell(widget, lab + "explorer.ipynb")
    assert page.get_by_role("button", name="Run in your browser").count() == 0
    for key in ("siren_sh", "space2vec_grid"):
        choose = page.get_by_label("Encoder", exact=True)
        found = widget.after(lambda key=key, choose=choose: choose.select_option(key))
        assert found["request"]["encoder"] == key
        check_against_torch(found)
    before = [widget.picture(n) for n in range(4)]
    check_against_torch(widget.after(lambda: page.get_by_label("Scales", exact=True).fill("24")))
    assert before[0] != widget.picture(0) or before[2] != widget.picture(2)


def test_a_link_of_the_text_moves_the_laboratory_in_jupyterlab(lab: str, explorer: Callable[..., Explorer]) -> None:
    widget = explorer(width=1300)
    page = widget.page
    run_first_cell(widget, lab + "laboratory.ipynb")
    page.get_by_role("link", name="Wrap beside xyz").click()
    second = page.get_by_role("group", name="encoder B", exact=True)
    second.get_by_label("Encoder", exact=True).wait_for()
    first = page.get_by_role("group", name="encoder A", exact=True)
    assert first.get_by_label("Encoder", exact=True).input_value() == "wrap"
    assert second.get_by_label("Encoder", exact=True).input_value() == "xyz"
    assert page.get_by_label("Species (synthetic)").input_value() == "Ross"
    assert page.get_by_label("Latitude").input_value() == "90"
