"""How fast are the encoders? Every position encoder against plain NumPy, and against writing an output of its size.

    python benchmarks/encode.py [--out benchmarks/results/encode.json] [--torchgeo FOLDER] [--keys KEY ...]

For each encoder: 65,536 random places, 64 scales (dfs 8; spherical harmonics of degree 10, 20 and 40; 200 anchors), in
float32. Timed are a straightforward NumPy implementation in float64 (below), tslab eager, tslab compiled, and writing
an output of that size into fresh memory, which nothing that returns such an output can beat. Each time is the median of
several runs, taken in turns so that a busy moment of the machine hits all of them. Peak memory is measured in a process
of its own. PyTorch runs with THP_MEM_ALLOC_ENABLE=1: like NumPy's, its arrays then lie in pages of 2 MB. Without, a
fresh output costs a page fault for each 4 kB, which can take longer than computing it; ``small_pages`` holds the times
of that, where ``write`` is most of the time of the widest encoders. A row without ``small_pages`` was measured earlier,
with small pages only. With ``--torchgeo`` (a folder that holds torchgeo 0.10), its spherical harmonics are timed too.
"""

import argparse
import ctypes
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read when PyTorch starts

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from processor import cpu_name, load_average

import tslab
from tslab._files import atomic_write
from tslab.encoders import PositionEncoder, geometric_scales

N = 65_536
THREADS = 2
PARAMETERS: dict[str, dict[str, Any]] = {
    "tile": {},
    "wrap": {},
    "rbf": {"num_anchors": 200},
    "rff": {"num_scales": 64},
    "space2vec_grid": {"num_scales": 64},
    "space2vec_theory": {"num_scales": 64},
    "xyz": {},
    "nerf": {"num_scales": 16},
    "sphere2vec_sphereC": {"num_scales": 64},
    "sphere2vec_sphereC+": {"num_scales": 64},
    "sphere2vec_sphereM": {"num_scales": 64},
    "sphere2vec_sphereM+": {"num_scales": 64},
    "sphere2vec_dfs": {"num_scales": 8},
    "siren_sh 10": {"degree": 10},
    "siren_sh 20": {"degree": 20},
    "siren_sh 40": {"degree": 40},
}
TARGETS = [key for key in PARAMETERS if key.startswith(("rbf", "space2vec", "sphere2vec_sphere"))]
"""Encoders that are to be 8 times as fast as NumPy compiled, and 4 times eager."""

Array = NDArray[np.float64]


# The straightforward NumPy implementation, float64


def numpy_encoding(key: str, encoder: Any, lonlat: Array) -> Array:
    """The encoding in plain NumPy; random parts and scales are those of ``encoder``."""
    lon, lat = np.radians(lonlat).T
    name = key.split()[0]
    if name == "tile":
        cell = encoder.cell_size
        row = np.minimum((lonlat[:, 1] + 90) // cell, encoder.n_rows - 1)
        col = np.minimum((lonlat[:, 0] + 180) // cell, encoder.n_cols - 1)
        return encoder.table.detach().double().numpy()[(row * encoder.n_cols + col).astype(int)]
    if name == "wrap":
        return np.stack([np.sin(lon), np.sin(2 * lat), np.cos(lon), np.cos(2 * lat)], axis=-1)
    if name == "rbf":
        squared = ((lonlat[:, None] - encoder.anchors.double().numpy()) ** 2).sum(-1)
        return np.exp(-squared / (2 * encoder.kernel_size**2))
    if name == "rff":
        phase = (lonlat / [180, 90]) @ encoder.directions.double().numpy().T + encoder.shift.double().numpy()
        return np.sqrt(2 / len(encoder.shift)) * np.cos(phase)
    if name == "xyz":
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    if name == "nerf":
        xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
        phase = (xyz[:, :, None] * (np.pi * 2.0 ** np.arange(len(encoder.frequencies)))).reshape(len(lonlat), -1)
        return np.concatenate([np.sin(phase), np.cos(phase)], axis=-1)
    if name == "siren_sh":
        return numpy_harmonics(encoder.degree, lon, lat)
    scales = geometric_scales(encoder.num_scales, encoder.min_radius, encoder.max_radius).numpy()
    if name == "space2vec_grid":
        phase = lonlat[:, :, None] / scales
        return np.stack([np.sin(phase), np.cos(phase)], axis=-1).reshape(len(lonlat), -1)
    if name == "space2vec_theory":
        directions = np.array([[1, 0], [-1 / 2, math.sqrt(3) / 2], [-1 / 2, -math.sqrt(3) / 2]])
        phase = (lonlat @ directions.T)[:, None] / scales[:, None]
        return np.stack([np.sin(phase), np.cos(phase)], axis=-1).reshape(len(lonlat), -1)
    return numpy_sphere2vec(name, lon[:, None], lat[:, None], scales)


def numpy_sphere2vec(name: str, lon: Array, lat: Array, scales: Array) -> Array:
    sin_a, cos_a, sin_b, cos_b = (f(angle / scales) for angle in (lon, lat) for f in (np.sin, np.cos))
    if name == "sphere2vec_sphereC":
        features = [sin_b, cos_b * cos_a, cos_b * sin_a]
    elif name == "sphere2vec_sphereC+":
        features = [sin_b, cos_b, sin_a, cos_a, cos_b * cos_a, cos_b * sin_a]
    else:
        features = [sin_b, cos_b, sin_a, cos_a]
    if name.startswith("sphere2vec_sphereM"):
        sin_lon, cos_lon, cos_lat = np.sin(lon), np.cos(lon), np.cos(lat)
        mixed = [cos_b * cos_lon, cos_lat * cos_a, cos_b * sin_lon, cos_lat * sin_a]
        features = [*features, *mixed] if name.endswith("+") else [sin_b, *mixed]
    stacked = np.stack(features, axis=-1).reshape(len(lon), -1)
    if name != "sphere2vec_dfs":
        return stacked
    rows, columns = np.concatenate([sin_a, cos_a], axis=-1), np.concatenate([sin_b, cos_b], axis=-1)
    return np.concatenate([(rows[:, :, None] * columns[:, None]).reshape(len(lon), -1), stacked], axis=-1)


def numpy_harmonics(degree: int, lon: Array, lat: Array) -> Array:
    """SciPy's complex spherical harmonics, made real."""
    columns = []
    for l in range(degree):  # noqa: E741
        for m in range(-l, l + 1):
            y = scipy.special.sph_harm_y(l, abs(m), math.pi / 2 - lat, lon) * (-1) ** m
            columns.append(y.real if m == 0 else math.sqrt(2) * (y.real if m > 0 else y.imag))
    return np.stack(columns, axis=-1)


# Timing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encode.json")
    parser.add_argument("--keys", nargs="+", choices=PARAMETERS, default=list(PARAMETERS), metavar="KEY")
    parser.add_argument("--torchgeo", type=Path, help="a folder that holds the package torchgeo 0.10 (and einops)")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--small-pages", metavar="KEY", help=argparse.SUPPRESS)
    parser.add_argument("--memory", metavar="KEY:MODE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.memory:
        key, mode = arguments.memory.split(":")
        print(peak_memory_here(key, mode))
        return
    if arguments.small_pages:
        print(json.dumps(small_pages_here(arguments.small_pages, arguments.runs)))
        return
    result = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"encoders": {}}
    result["about"] = __doc__.split("\n\n")[2].replace("\n", " ")
    result["machine"] = machine()
    for key in arguments.keys:
        row = measure(key, arguments.runs, arguments.torchgeo)
        result["encoders"][key] = {"measured": date.today().isoformat(), "load": load_average(), **row}
        result["encoders"] = {k: result["encoders"][k] for k in PARAMETERS if k in result["encoders"]}
        atomic_write(arguments.out, json.dumps(result, indent=1) + "\n")
        print(line(key, row), flush=True)


def measure(key: str, runs: int, torchgeo: Path | None) -> dict[str, Any]:
    """All times (milliseconds), the error against NumPy and peak memory of one encoder."""
    encoder, lonlat = build(key), places()
    reference = lonlat.double().numpy()
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    with torch.no_grad():
        start = time.perf_counter()
        compiled(lonlat)
        compile_s = time.perf_counter() - start
        candidates: dict[str, Callable[[], Any]] = {
            "numpy": lambda: numpy_encoding(key, encoder, reference),
            "eager": lambda: encoder(lonlat),
            "compiled": lambda: compiled(lonlat),
            "write": lambda: torch.ones(N, encoder.out_features),
        }
        other = torchgeo_harmonics(torchgeo, key)
        if other is not None:
            candidates["torchgeo"] = lambda: other(lonlat)
        times = in_turns(candidates, runs)
        expected = torch.from_numpy(numpy_encoding(key, encoder, reference[:4096]))
        row = {
            "features": encoder.out_features,
            "ms": times,
            "times_numpy": {k: round(times["numpy"] / times[k], 2) for k in ("eager", "compiled")},
            "small_pages": small_pages(key, runs, times["numpy"]),
            "compile_s": round(compile_s, 1),
            "max_error": float((encoder(lonlat[:4096]).double() - expected).abs().max()),
            "max_error_compiled": float((compiled(lonlat)[:4096].double() - expected).abs().max()),
            "memory_ratio": {mode: peak_memory(key, mode) for mode in ("eager", "compiled")},
        }
        if other is not None:
            row["times_torchgeo"] = {k: round(times["torchgeo"] / times[k], 2) for k in ("eager", "compiled")}
            theirs = other(lonlat[:4096]).double() / torchgeo_factors(PARAMETERS[key]["degree"])
            row["max_error_torchgeo"] = float((theirs - expected).abs().max())
        if torch.cuda.is_available():
            row["gpu"] = measure_gpu(encoder, lonlat)
    torch._dynamo.reset()
    return row


def in_turns(candidates: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Median time of each candidate in milliseconds; one run of each, then the next of each, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(runs + 1):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            if run > 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def measure_gpu(encoder: PositionEncoder, lonlat: torch.Tensor) -> dict[str, Any]:
    """Times on the GPU, and the share of its copy bandwidth at which the output is written."""
    encoder, lonlat = encoder.cuda(), lonlat.cuda()
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    out = encoder(lonlat)
    target = torch.empty_like(out)

    def milliseconds(call: Callable[[], Any]) -> float:
        values = []
        for _ in range(25):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            values.append(start.elapsed_time(end))
        return statistics.median(values[5:])

    times = {
        "eager": milliseconds(lambda: encoder(lonlat)),
        "compiled": milliseconds(lambda: compiled(lonlat)),
        "copy": milliseconds(lambda: target.copy_(out)),
    }
    # a copy reads and writes each byte, an encoder writes it
    share = {mode: round(times["copy"] / 2 / times[mode], 3) for mode in ("eager", "compiled")}
    encoder.cpu()
    return {"device": torch.cuda.get_device_name(), "ms": times, "share_of_copy_bandwidth": share}


# Small pages and peak memory, in a process of their own


def small_pages(key: str, runs: int, numpy_ms: float) -> dict[str, dict[str, float]]:
    """Times of tslab without huge pages, and how many times as fast as NumPy that is."""
    command = [sys.executable, __file__, "--small-pages", key, "--runs", str(runs)]
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    times = json.loads(answer.splitlines()[-1])
    return {
        "ms": times,
        "times_numpy": {k: round(numpy_ms / times[k], 2) for k in ("eager", "compiled")},
    }


def small_pages_here(key: str, runs: int) -> dict[str, float]:
    encoder, lonlat = build(key), places()
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    with torch.no_grad():
        return in_turns(
            {
                "eager": lambda: encoder(lonlat),
                "compiled": lambda: compiled(lonlat),
                "write": lambda: torch.ones(N, encoder.out_features),
            },
            runs,
        )


def peak_memory(key: str, mode: str) -> float | None:
    """Peak memory of encoding, as a multiple of the output; None where the system does not tell."""
    command = [sys.executable, __file__, "--memory", f"{key}:{mode}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    return None if answer == "None" else float(answer)


def peak_memory_here(key: str, mode: str) -> float | None:
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return None

    def kilobytes(name: str) -> int:
        return next(int(row.split()[1]) for row in status.read_text().splitlines() if row.startswith(name))

    encoder: Callable[[torch.Tensor], torch.Tensor] = build(key)
    lonlat = places()
    if mode == "compiled":
        encoder = torch.compile(encoder, fullgraph=True, dynamic=True)
    with torch.no_grad():
        encoder(lonlat)  # loads and compiles what it needs
        ctypes.CDLL(None).malloc_trim(0)  # hands freed memory back to the system
        reset.write_text("5")  # the high-water mark starts again from here
        before = kilobytes("VmRSS")
        out = encoder(lonlat)
    return round((kilobytes("VmHWM") - before) * 1024 / (out.numel() * out.element_size()), 3)


# Inputs


def build(key: str) -> PositionEncoder:
    parameters = dict(PARAMETERS[key])
    name = key.split()[0]
    if "generator" in tslab.ENCODERS[name].parameters:
        parameters["generator"] = torch.Generator().manual_seed(0)
    return tslab.position_encoder(name, **parameters).eval().requires_grad_(False)


def places() -> torch.Tensor:
    return tslab.sample_sphere(N, generator=torch.Generator().manual_seed(0))


def torchgeo_harmonics(folder: Path | None, key: str) -> Any:
    """torchgeo's SphericalHarmonics of that degree, from its one file, which needs torchvision for types only."""
    if folder is None or not key.startswith("siren_sh"):
        return None
    sys.path.append(str(folder))
    if importlib.util.find_spec("torchvision") is None:
        stub = types.ModuleType("torchvision.models._api")
        stub.Weights, stub.WeightsEnum = (lambda **_: None), object  # type: ignore[attr-defined]
        sys.modules |= {"torchvision.models._api": stub}
    path = folder / "torchgeo" / "models" / "satclip.py"
    spec = importlib.util.spec_from_file_location("torchgeo_satclip", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SphericalHarmonics(PARAMETERS[key]["degree"])


def torchgeo_factors(degree: int) -> torch.Tensor:
    """Its harmonics divided by orthonormal ones: SatCLIP's opposite point and factor pi at m = 0."""
    columns = [(l, m) for l in range(degree) for m in range(-l, l + 1)]  # noqa: E741
    return torch.tensor([(-1) ** l * (math.pi if m == 0 else 1.0) for l, m in columns], dtype=torch.float64)  # noqa: E741


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "simd": torch.backends.cpu.get_cpu_capability(),
    }


def line(key: str, row: dict[str, Any]) -> str:
    ms, ratio = row["ms"], row["times_numpy"]
    text = f"{key:20s} numpy {ms['numpy']:8.1f}  eager {ms['eager']:7.1f} ({ratio['eager']:5.1f}x)"
    text += f"  compiled {ms['compiled']:7.1f} ({ratio['compiled']:5.1f}x)  write {ms['write']:6.1f}"
    text += f"  error {row['max_error']:.0e}  memory {row['memory_ratio']['eager']} {row['memory_ratio']['compiled']}"
    small = row["small_pages"]
    text += f"  small pages: eager {small['ms']['eager']} ({small['times_numpy']['eager']}x)"
    text += f" compiled {small['ms']['compiled']} ({small['times_numpy']['compiled']}x) write {small['ms']['write']}"
    if "times_torchgeo" in row:
        text += f"  torchgeo {ms['torchgeo']:.1f} ({row['times_torchgeo']}), error {row['max_error_torchgeo']:.0e}"
    return text


if __name__ == "__main__":
    main()
