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

CELL = "from tslab.widgets import EncoderExplorer\nexplorer = EncoderExplorer('sphere2vec_sphereC+')\nexplorer"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab, opened on a notebook that shows the explorer; its files have their own folder."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install jupyterlab")
    home = tmp_path_factory.mktemp("jupyterlab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, home / "explorer.ipynb")
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
        yield address + "lab/tree/explorer.ipynb?reset"
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


def test_the_explorer_is_live_in_jupyterlab(lab: str, explorer: Callable[..., Explorer]) -> None:
    widget = explorer(width=1300)
    page = widget.page
    page.set_default_timeout(60_000)
    page.goto(lab)
    page.get_by_text("Python 3").first.wait_for()
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for(state="attached")
    cell = page.locator(".jp-Notebook .jp-CodeCell").first
    for _ in range(20):  # the notebook does not yet listen to keys when it is first seen
        cell.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(500)
        if cell.locator(".jp-InputArea-prompt").inner_text() != "[ ]:":
            break
    page.wait_for_selector(".tslab-explorer canvas")
    assert page.get_by_role("button", name="Run in your browser").count() == 0
    for key in ("siren_sh", "space2vec_grid"):
        choose = page.get_by_label("Encoder", exact=True)
        found = widget.after(lambda key=key, choose=choose: choose.select_option(key))
        assert found["request"]["encoder"] == key
        check_against_torch(found)
    before = [widget.picture(n) for n in range(4)]
    check_against_torch(widget.after(lambda: page.get_by_label("Scales", exact=True).fill("24")))
    assert before[0] != widget.picture(0) or before[2] != widget.picture(2)
