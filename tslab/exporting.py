"""Encoders and models of places as files that run without tslab: ONNX, and torch's exported programs.

Both hold the computation itself: the weights, the scales, the float64 phases. What they cannot hold are checks of
values, so whoever calls them has to keep longitudes and latitudes in range; a missing place (NaN) stays NaN. The file
is compared with the module before it is handed over. The chapter *Exporting a model* uses this module.
"""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab import __version__
from tslab._files import atomic_path, atomic_write
from tslab.coords import sample_sphere

OPSET = 20
"""Version of the ONNX operators: the one that torch's exporter writes without converting."""

MAX_PLACES = 2**24
"""The largest batch that an exported program is promised to take."""


@dataclass(frozen=True)
class ExportReport:
    """A file that was written: its path and size, the width of its output, and the largest difference from the module
    on 1,000 random places, the poles and the date line (absolute, and as a share of the largest output)."""

    path: Path
    bytes: int
    features: int
    max_error: float
    relative_error: float


def export_onnx(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    output: str = "encoded",
    metadata: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write a module of places as one ONNX file and compare it with the module in ONNX Runtime.

    The input is ``lonlat`` (n, 2), degrees of type ``dtype``, any n; the output is called ``output``.

    Args:
        module: encoder or prior on the CPU; it is put in evaluation mode.
        path: file to write; it appears when the comparison has passed.
        dtype: of the coordinates. float64 where places closer than a few metres matter.
        metadata: strings to store in the file, beside the versions.
        tolerance: largest relative error.

    Raises:
        ImportError: needs onnx, onnxscript and onnxruntime (``pip install "tslab[onnx]"``).
        ValueError: the file does not compute what the module does, or a module that is not on the CPU.
    """
    import onnx
    import onnxruntime

    module = _on_cpu(module)
    places = torch.export.Dim("places", min=1, max=MAX_PLACES)
    graph = onnx_graph(
        module,
        (torch.zeros(7, 2, dtype=dtype),),
        dynamic_shapes=({0: places},),
        input_names=["lonlat"],
        output_names=[output],
    )
    model = onnx.load_from_string(graph)
    facts = {
        "tslab": __version__,
        "torch": torch.__version__,
        "opset": OPSET,
        "input": "longitude, latitude in degrees",
    }
    for name, value in (facts | dict(metadata or {})).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)
    content = model.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    lonlat = check_places(dtype)
    found = torch.from_numpy(session.run(None, {"lonlat": lonlat.numpy()})[0])
    report = _compared(module, lonlat, found, Path(path), len(content), tolerance)
    atomic_write(path, content)
    return report


def export_program(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write a module of places as a torch exported program (.pt2); ``torch.export.load(path).module()`` runs it.

    Arguments and errors as in `export_onnx`; loading needs torch, but not tslab.
    """
    module = _on_cpu(module)
    places = torch.export.Dim("places", min=2, max=MAX_PLACES)
    program = torch.export.export(module, (torch.zeros(7, 2, dtype=dtype),), dynamic_shapes=({0: places},))
    with atomic_path(path) as temporary:
        with (
            warnings.catch_warnings()
        ):  # about weights that are a view, and might not be on the CPU: they are
            warnings.simplefilter("ignore")
            torch.export.save(program, temporary)
        lonlat = check_places(dtype)
        with torch.no_grad():
            found = torch.export.load(temporary).module()(lonlat)
        return _compared(module, lonlat, found, Path(path), temporary.stat().st_size, tolerance)


def onnx_graph(module: nn.Module, args: tuple[Tensor, ...], **options: Any) -> bytes:
    """The ONNX graph of any module, without the source lines and names that the exporter adds.

    Called with example arguments and options of ``torch.onnx.export``, such as ``dynamic_shapes``; float64 constants
    keep all of their digits.

    Raises:
        ImportError: the exporter of torch needs the packages onnx and onnxscript.
    """
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            args,
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table={torch.ops.aten.scalar_tensor.default: _exact_constant},
            verbose=False,
            **options,
        )
    assert program is not None
    model = program.model_proto
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for (
        node
    ) in model.graph.node:  # stack traces and names of source lines: heavy, and different on each machine
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def check_places(dtype: torch.dtype = torch.float32) -> Float[Tensor, "n 2"]:
    """The places of the comparison: 1,000 random ones, both poles, the date line from both sides, a missing one."""
    random = sample_sphere(1000, generator=torch.Generator().manual_seed(0), dtype=dtype)
    nan = float("nan")
    special = [[0, 90], [120, 90], [0, -90], [180, 0], [-180, 0], [179.9999, 45], [-179.9999, 45], [nan, nan]]
    return torch.cat([random, torch.tensor(special, dtype=dtype)])


def _exact_constant(value: float, dtype: int = 1, **_: Any) -> Any:
    """A Python number as an ONNX constant of its own type; the exporter's way through float32 would lose
    half of its digits."""
    import onnx
    from onnxscript import opset20

    return opset20.Constant(value=onnx.helper.make_tensor("", dtype if dtype > 0 else 1, (), [value]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter prints, warns and logs; errors still come through as exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _on_cpu(module: nn.Module) -> nn.Module:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type != "cpu":
            raise ValueError(f"the module is on {tensor.device}; export it from the CPU with module.cpu()")
    return module.eval()


def _compared(
    module: nn.Module, lonlat: Tensor, found: Tensor, path: Path, size: int, tolerance: float
) -> ExportReport:
    with torch.no_grad():
        expected = module(lonlat)
    present = ~expected.isnan()
    if found.shape != expected.shape or not torch.equal(found.isnan(), expected.isnan()):
        raise ValueError(f"{path.name} gives other rows, or other missing ones, than the module")
    error = float((found - expected)[present].abs().max())
    relative = error / float(expected[present].abs().max())
    if relative > tolerance:
        raise ValueError(
            f"{path.name} differs from the module by {relative:.1e} of the largest output, over {tolerance:.0e}"
        )
    return ExportReport(path, size, expected.shape[1], error, relative)
