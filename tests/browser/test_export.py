"""The program for web pages that the chapter on exporting shows, run as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tslab
from tslab.exporting import export_onnx
from tslab.models import LocationClassifier

from .conftest import ROOT, served, unavailable

CHAPTER = ROOT / "book" / "work" / "export.md"
ORT = ROOT / "book" / "_vendor" / "tslab" / "ort"

PAGE = """<!doctype html><html lang="en"><title>Export</title><link rel="icon" href="data:,">
<script type="importmap">{"imports": {"onnxruntime-web": "./ort/ort.wasm.bundle.min.mjs"}}</script>
<script type="module">PROGRAM
window.answer = { dims: logits.dims, probability: Array.from(probability) };
</script></html>"""


def program() -> str:
    """The JavaScript of the chapter."""
    (found,) = re.findall(r"```javascript\n(.*?)```", CHAPTER.read_text(encoding="utf-8"), re.DOTALL)
    return found


def test_the_program_of_the_chapter_computes_what_torch_computes(chromium: Any, tmp_path: Path) -> None:
    if not ORT.exists():
        unavailable("ONNX Runtime Web is not collected: run `make book` first")
    encoder = tslab.location_encoder(
        "sphere2vec_sphereC+", 16, hidden_dim=16, generator=torch.Generator().manual_seed(0)
    )
    prior = LocationClassifier(encoder, 12, generator=torch.Generator().manual_seed(1)).eval()
    export_onnx(prior, tmp_path / "prior.onnx", output="logits")
    shutil.copytree(ORT, tmp_path / "ort")
    (tmp_path / "page.html").write_text(PAGE.replace("PROGRAM", program()), encoding="utf-8")

    page = chromium.new_page()
    try:
        with served(tmp_path) as address:
            page.goto(address + "page.html")
            answer = page.wait_for_function("window.answer").json_value()
    finally:
        page.close()

    (numbers,) = re.findall(r"from\(\[(.*?)\]\)", program())
    lonlat = torch.tensor([float(number) for number in numbers.split(",")]).reshape(-1, 2)
    with torch.no_grad():
        expected = torch.sigmoid(prior(lonlat))
    assert answer["dims"] == list(expected.shape)
    np.testing.assert_allclose(answer["probability"], expected.flatten(), atol=1e-5)
