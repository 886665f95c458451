"""The encoders as ONNX graphs, for the widget in a page without a kernel.

    python -m tslab_book.widget_graphs OUTDIR

writes one graph for each encoder of `CONTROLS`, the graphs ``similarity`` and ``meters``, the places that
the meters need (float64 pairs), one graph for each trained model of `tslab_book.trained`, and
``manifest.json``, which says what each file is, with its checksum. The graphs are exported from the torch
modules of `tslab.widgets.parametric`; parameters and numbers of places are inputs, so that one graph serves
every position of the sliders. The same versions write the same bytes on the same kind of machine.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from tslab import __version__
from tslab._files import atomic_write
from tslab.encoders import ENCODERS
from tslab.exporting import OPSET, onnx_graph
from tslab.widgets.parametric import (
    BLOCK_ROWS,
    CONTROLS,
    GRID_STEP_DEG,
    Meters,
    ParametricEncoder,
    Similarity,
    meter_places,
)
from tslab_book import trained


def export(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Write all graphs and the manifest to ``folder``; returns the manifest.

    Raises:
        ImportError: the exporter of torch needs the packages onnx and onnxscript.
    """
    out = Path(folder)
    manifest: dict[str, Any] = {
        "tslab": __version__,
        "torch": torch.__version__,
        "opset": OPSET,
        "grid_step_deg": GRID_STEP_DEG,
        "block_rows": BLOCK_ROWS,
        "encoders": {},
    }
    for key in CONTROLS:
        entry = _write(out, _file_name(key), encoder_graph(key))
        described = {"name": ENCODERS[key].name, "family": ENCODERS[key].family, **CONTROLS[key].as_json()}
        manifest["encoders"][key] = entry | described
        presence = _write(out, f"presence-{_file_name(key)}", presence_graph(key))
        manifest["encoders"][key]["presence"] = presence | {"top1": trained.top1(key)}
    manifest["species"] = list(trained.SPECIES)
    manifest["similarity"] = _write(out, "similarity.onnx", similarity_graph())
    manifest["meters"] = _write(out, "meters.onnx", meters_graph())
    manifest["meter_places"] = _write(out, "meter-places.f64", meter_places().numpy().tobytes())
    atomic_write(out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def encoder_graph(key: str) -> bytes:
    """The ONNX graph of one encoder.

    Inputs: ``lonlat`` float64 (places, 2) and the parameters of ``CONTROLS[key]``, a count as int64 indices
    0 ... count - 1, others as float64 scalars. Outputs: ``features`` float32 (places, d), ``wavelengths``
    float64 (scales,) in degrees.
    """
    module = ParametricEncoder(key)
    parameters = module.tensors({})
    counts = {p.name: p for p in CONTROLS[key].parameters if p.kind == "count"}
    shapes: dict[str, Any] = {
        name: {0: torch.export.Dim(name, min=1, max=int(counts[name].high))} if name in counts else {}
        for name in parameters
    }
    places = torch.export.Dim("places", min=1, max=2**20)
    return onnx_graph(
        module,
        (torch.zeros(7, 2, dtype=torch.float64), *parameters.values()),
        dynamic_shapes={"lonlat": {0: places}} | ({"parameters": tuple(shapes.values())} if shapes else {}),
        input_names=["lonlat", *parameters],
        output_names=["features", "wavelengths"],
    )


def similarity_graph() -> bytes:
    """``features`` float32 (places, d), ``place`` float32 (1, d) -> ``similarity`` float32 (places, 2)."""
    places, width = torch.export.Dim("places", min=1, max=2**20), torch.export.Dim("width", min=1, max=2**16)
    return onnx_graph(
        Similarity(),
        (torch.rand(7, 5), torch.rand(1, 5)),
        dynamic_shapes={"features": {0: places, 1: width}, "place": {1: width}},
        input_names=["features", "place"],
        output_names=["similarity"],
    )


def meters_graph() -> bytes:
    """``features`` float32 (3130, d) -> ``meters`` float64 (3,): seam gap, pole spread and effective rank."""
    width = torch.export.Dim("width", min=1, max=2**16)
    return onnx_graph(
        Meters(),
        (torch.rand(len(meter_places()), 5),),
        dynamic_shapes={"features": {1: width}},
        input_names=["features"],
        output_names=["meters"],
    )


def presence_graph(key: str) -> bytes:
    """A trained model: ``lonlat`` float64 (places, 2) -> ``presence`` float32 (places, species)."""
    places = torch.export.Dim("places", min=1, max=2**20)
    return onnx_graph(
        trained.Presence(key),
        (torch.zeros(7, 2, dtype=torch.float64),),
        dynamic_shapes={"lonlat": {0: places}},
        input_names=["lonlat"],
        output_names=["presence"],
    )


def _write(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    atomic_write(folder / name, content)
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _file_name(key: str) -> str:
    """File name of an encoder's graph; a plus sign would be read as a space by some servers."""
    return key.replace("+", "_plus") + ".onnx"


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python -m tslab_book.widget_graphs OUTDIR", file=sys.stderr)
        return 2
    manifest = export(sys.argv[1])
    total = sum(entry["bytes"] + entry["presence"]["bytes"] for entry in manifest["encoders"].values())
    print(f"{len(manifest['encoders'])} encoders and trained models, {total / 1e3:.0f} kB, in {sys.argv[1]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
