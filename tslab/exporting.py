"""Encoders and models of places as files that run without tslab: ONNX, and torch's exported programs.

Both hold the computation itself: the weights, the scales, the float64 phases. What they cannot hold are checks of
values, so whoever calls them has to keep longitudes and latitudes in range; a missing place (NaN) stays NaN. The file
is compared with the module before it is handed over. The chapter *Exporting a model* uses this module.
"""

import inspect
import json
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab import __version__
from tslab._checks import check_choice, check_number, require
from tslab._files import atomic_path, atomic_write
from tslab.coords import sample_sphere
from tslab.encoders.storage import unwrap
from tslab.models import Ensemble, Regressor

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

    The input is ``lonlat`` (n, 2), degrees of type ``dtype``, any n; a `tslab.models.Regressor` (or an ensemble) with
    image features takes them as ``image`` (n, d), float32. The output is called ``output``.

    Args:
        module: encoder, prior or regressor on the CPU; it is put in evaluation mode. A compiled or data-parallel one
            is exported as the module that it wraps.
        path: file to write; it appears when the comparison has passed.
        dtype: of the coordinates. float64 where places closer than a few metres matter.
        metadata: strings to store in the file, beside the versions.
        tolerance: largest relative error.

    Raises:
        ImportError: needs onnx, onnxscript and onnxruntime (``pip install "tslab[onnx]"``).
        ValueError: the file does not compute what the module does, a module that is not on the CPU, or an argument out
            of range.
    """
    onnx, onnxruntime = (require(package, "onnx") for package in ("onnx", "onnxruntime"))
    module, inputs, expected = _prepared(module, path, dtype, tolerance)
    about = {
        "tslab": __version__,
        "torch": torch.__version__,
        "opset": OPSET,
        "input": "longitude, latitude in degrees",
    }
    facts = _as_text(about | dict(metadata or {}))
    if not isinstance(output, str) or not output or output in inputs:
        raise ValueError(f"output must be a name other than {' and '.join(inputs)}, got {output!r}")
    graph = onnx_graph(
        module,
        tuple(value[:7] for value in inputs.values()),
        dynamic_shapes=_shapes(module, inputs, at_least=1),
        input_names=list(inputs),
        output_names=[output],
    )
    model = onnx.load_from_string(graph)
    onnx.helper.set_model_props(model, facts)
    content = model.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    taken = {entry.name for entry in session.get_inputs()}
    found = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in taken})[0]
    report = _compared(expected, torch.from_numpy(found), Path(path), len(content), tolerance)
    atomic_write(path, content)
    return report


def export_program(
    module: nn.Module, path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32, tolerance: float = 1e-4
) -> ExportReport:
    """Write a module of places as a torch exported program (.pt2); ``torch.export.load(path).module()`` runs it.

    Arguments and errors as in `export_onnx`; loading needs torch, but not tslab.
    """
    if Path(path).suffix != ".pt2":
        raise ValueError(f"an exported program is a file that ends in .pt2, got {Path(path).name}")
    module, inputs, expected = _prepared(module, path, dtype, tolerance)
    args = tuple(value[:7] for value in inputs.values())
    program = torch.export.export(module, args, dynamic_shapes=_shapes(module, inputs, at_least=2))
    with atomic_path(path) as temporary:
        with warnings.catch_warnings():  # about weights that are a view, and might not be on the CPU: they are
            warnings.simplefilter("ignore")
            torch.export.save(program, temporary)
        with torch.no_grad():
            found = torch.export.load(temporary).module()(*inputs.values())
        return _compared(expected, found, Path(path), temporary.stat().st_size, tolerance)


def onnx_graph(module: nn.Module, args: tuple[Tensor, ...], **options: Any) -> bytes:
    """The ONNX graph of any module, without the source lines and names that the exporter adds.

    Called with example arguments and options of ``torch.onnx.export``, such as ``dynamic_shapes``; float64 constants
    keep all of their digits.

    Raises:
        ImportError: the exporter of torch needs the packages onnx and onnxscript.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "onnx")
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter also warns a lot; errors still come through as exceptions
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                args,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table={torch.ops.aten.scalar_tensor.default: _exact_constant},
                verbose=False,
                **options,
            )
    finally:
        logging.disable(disabled)
    assert program is not None
    model = program.model_proto
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for node in model.graph.node:  # stack traces and names of source lines: heavy, and different on each machine
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


def example_inputs(module: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What the module is compared on, by the names of its inputs: `check_places`, and random image features for a
    `tslab.models.Regressor` that takes some (positive ones where it takes the logarithm).

    Raises:
        ValueError: ``dtype`` is not float32 or float64.
    """
    check_choice("dtype", dtype, (torch.float32, torch.float64))
    inputs = {"lonlat": check_places(dtype)}
    part = module.members[0] if isinstance(module, Ensemble) else module
    if isinstance(part, Regressor) and part.image is not None:
        shape = (len(inputs["lonlat"]), len(part.image_mean))
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        scaled = noise * part.image_scale.float() + part.image_mean.float()
        inputs["image"] = noise.exp() if part.scalar is not None else scaled
    return inputs


def _prepared(
    module: nn.Module, path: str | os.PathLike[str], dtype: torch.dtype, tolerance: float
) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """The module without wrappers, the inputs that it is compared on, and what it answers; all refusals come from here,
    in their own words, and not from the depths of an exporter."""
    check_number("tolerance", tolerance, above=0)
    if not isinstance(module, nn.Module):
        raise TypeError(f"a torch module is exported, got {type(module).__name__}")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the file to write")
    module = unwrap(module).eval()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type != "cpu":
            raise ValueError(f"the module is on {tensor.device}; export it from the CPU with module.cpu()")
    inputs = example_inputs(module, dtype)
    with torch.no_grad():
        out = module(*inputs.values())
    if not isinstance(out, Tensor) or out.ndim not in (1, 2) or len(out) != len(inputs["lonlat"]):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"the module must answer n places with (n,) or (n, k) numbers, got {got}")
    if bool(out.isnan().all()):
        raise ValueError("the module answers every place with NaN; was it trained?")
    return module, inputs, out


def _shapes(module: nn.Module, inputs: Mapping[str, Tensor], *, at_least: int) -> tuple[Any, ...]:
    """The open number of rows of each input, in the structure that the signature of the module asks for."""
    places = torch.export.Dim("places", min=at_least, max=MAX_PLACES)
    shapes = tuple({0: places} for _ in inputs)
    first = next(iter(inspect.signature(module.forward).parameters.values()))
    return (shapes,) if first.kind == inspect.Parameter.VAR_POSITIONAL else shapes


def _as_text(facts: Mapping[str, Any]) -> dict[str, str]:
    try:
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be text, or what JSON can hold: {error}") from error


def _exact_constant(value: float, dtype: int = 1, **_: Any) -> Any:
    """A Python number as an ONNX constant of its own type; the exporter's way through float32 would lose
    half of its digits."""
    import onnx
    from onnxscript import opset20

    return opset20.Constant(value=onnx.helper.make_tensor("", dtype if dtype > 0 else 1, (), [value]))


def _compared(expected: Tensor, found: Tensor, path: Path, size: int, tolerance: float) -> ExportReport:
    present = ~expected.isnan()
    if found.shape != expected.shape or not torch.equal(found.isnan(), expected.isnan()):
        raise ValueError(f"{path.name} gives other rows, or other missing ones, than the module")
    error = float((found - expected)[present].abs().max())
    relative = error / (float(expected[present].abs().max()) or 1.0)
    if not relative <= tolerance:
        raise ValueError(
            f"{path.name} differs from the module by {relative:.1e} of the largest output, over {tolerance:g}"
        )
    return ExportReport(path, size, expected[:1].numel(), error, relative)
