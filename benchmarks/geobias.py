"""How fast is geo-bias? fMoW's released results, a plain loop for the ratio, and synthetic sets up to a million points.

    TSLAB_MIRROR=... python benchmarks/geobias.py [--repeats 3] [--million] [--out benchmarks/results/geobias.json]

Five measurements, each in a process of its own so that peak memory is its own:

- ``one``: fMoW, radius 0.05 rad, at most 100 neighbours: neighbour graph, unmarked and signed scores of one model;
- ``many``: the same for all models of the release that have results on fMoW;
- ``nulls``: the conditional score of one model of fMoW against the joint one, weight graphs and all, in turns: the
  ratio of their CPU times, and of a summary (conditional by default) to one with the joint null;
- ``loop``: the straightforward way, one centre at a time with all (n + m)^2 distances, on a random sample of
  centres; the time of all centres is the time per centre times their number, and is reported as scaled;
- ``scaling``: synthetic clustered points, a tenth of them duplicates, from ten thousand up to a million.

Where the released files are missing, fMoW is replaced by synthetic points of the same number and duplication, and
the result says so. On a GPU the same code runs with ``--device cuda``.

Wall and CPU seconds are both reported, with the load average before and after each measurement: on a shared
machine the wall time also counts the work of others, the CPU time does not.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processor import cpu_name, load_average, peak_bytes

from tslab import geobias
from tslab._files import atomic_write
from tslab.coords import sample_sphere, unit_vectors
from tslab_book.ruler import released_models
from tslab_book.walkthrough import background_grid

RADIUS_RAD = 0.05
MAX_NEIGHBORS = 100
K = 4
LOOP_CENTERS = 200
SIZES = (10_000, 30_000, 100_000, 300_000)


def fmow(encoders: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Places and hits (n, e) of the first ``encoders`` released models, and where they come from."""
    try:
        lonlat, hits, _ = released_models("fmow", at_most=encoders)
    except FileNotFoundError:
        lonlat, hit = synthetic(53_041, 38_118 / 53_041)
        return lonlat, hit[:, None].repeat(1, encoders), "synthetic points in the number of fMoW"
    return lonlat, hits, "fMoW, released results"


def synthetic(n: int, duplicates: float = 0.1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Synthetic places in clusters of 500, a share of them copies of others, and coin-toss hits.

    The number of clusters grows with n, not their size, so that neighbourhoods are full at every n.
    """
    generator = torch.Generator().manual_seed(seed)
    distinct = max(1, round(n * (1 - duplicates)))
    clusters = max(1, n // 500)
    centers = sample_sphere(clusters, generator=generator, dtype=torch.float64)
    lonlat = centers[torch.randint(clusters, (distinct,), generator=generator)]
    lonlat = lonlat + torch.randn((distinct, 2), generator=generator, dtype=torch.float64) * 2
    lonlat[:, 0] = torch.remainder(lonlat[:, 0] + 180, 360) - 180
    lonlat[:, 1] = lonlat[:, 1].clamp(-90, 90)
    copies = lonlat[torch.randint(distinct, (n - distinct,), generator=generator)]
    hits = torch.randint(0, 2, (n,), generator=generator).double()
    return torch.cat([lonlat, copies]), hits


def score(lonlat: torch.Tensor, hits: torch.Tensor, device: str) -> dict[str, Any]:
    """Graph, unmarked and signed scores; seconds of each step.

    The unmarked score is the signed score of a model that is always right, so one pass over the weight graphs
    gives both.
    """
    begin = time.perf_counter()
    graph = geobias.neighbor_graph(lonlat, radius_rad=RADIUS_RAD, max_neighbors=MAX_NEIGHBORS, device=device)
    searched = time.perf_counter()
    columns = torch.cat([torch.ones((len(hits), 1), dtype=hits.dtype), hits.reshape(len(hits), -1)], 1)
    scores = geobias.ssi(graph, columns, k=K, marks="signed").score
    mean_unmarked, *mean_signed = scores.nanmean(0).tolist()  # waits for the device
    end = time.perf_counter()
    return {
        "seconds": end - begin,
        "neighbors_seconds": searched - begin,
        "scores_seconds": end - searched,
        "centers": len(lonlat),
        "distinct_places": len(graph.sizes),
        "neighbors": int(graph.sizes.sum()),
        "models": len(mean_signed),
        "mean_unmarked": mean_unmarked,
        "mean_signed": mean_signed[0],
    }


def nulls(lonlat: torch.Tensor, hits: torch.Tensor, device: str, turns: int = 3) -> dict[str, Any]:
    """CPU seconds of the score under either null, and of a summary; the neighbours are found before."""
    graph = geobias.neighbor_graph(lonlat, radius_rad=RADIUS_RAD, max_neighbors=MAX_NEIGHBORS, device=device)
    seconds: dict[str, list[float]] = {}
    for _ in range(turns):
        for name, call in (("score", geobias.ssi), ("summary", geobias.summary)):
            for null in ("joint", "conditional"):
                graph.cache.clear()
                begin = time.process_time()
                call(graph, hits, k=K, null=null)
                if device == "cuda":
                    torch.cuda.synchronize()
                seconds.setdefault(f"{name}_{null}", []).append(time.process_time() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {f"{x}_ratio": medians[f"{x}_conditional"] / medians[f"{x}_joint"] for x in ("score", "summary")}
    return medians | ratios


def one_center(
    xyz: np.ndarray, degrees: torch.Tensor, hits: np.ndarray, center: int, k: int = K
) -> tuple[float, float]:
    """Unmarked and signed statistic of one centre, the straightforward way: all distances, a dense weight matrix."""
    d2 = ((xyz - xyz[center]) ** 2).sum(1)
    inside = np.flatnonzero(d2 <= 4 * math.sin(RADIUS_RAD / 2) ** 2)
    member = inside[np.argsort(d2[inside], kind="stable")[:MAX_NEIGHBORS]]
    background = unit_vectors(background_grid(degrees[center], RADIUS_RAD, n=len(member))).numpy()
    points = np.concatenate([xyz[member], background])
    between = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(between, np.inf)
    weights = np.zeros_like(between)
    np.put_along_axis(weights, np.argsort(between, axis=1, kind="stable")[:, :k], 1.0, axis=1)
    found = []
    for marks in (np.ones(len(member)), 2 * hits[member] - 1):
        z = np.zeros(len(points))
        z[: len(member)] = marks
        x = z - z.mean()
        found.append(float(x @ weights @ x))
    return found[0], found[1]


def loop(lonlat: torch.Tensor, hits: torch.Tensor) -> dict[str, Any]:
    """The plain loop on a sample of centres, its time scaled to all of them, and how far its values are from ours."""
    xyz, generator = unit_vectors(lonlat).numpy(), torch.Generator().manual_seed(0)
    sample = torch.randperm(len(lonlat), generator=generator)[:LOOP_CENTERS]
    begin = time.perf_counter()
    values = torch.tensor([one_center(xyz, lonlat, hits.numpy(), int(i)) for i in sample], dtype=torch.float64)
    seconds = time.perf_counter() - begin
    graph = geobias.neighbor_graph(lonlat, radius_rad=RADIUS_RAD, max_neighbors=MAX_NEIGHBORS, centers=sample)
    ours = geobias.ssi(graph, None, marks="unmarked").statistic
    return {
        "sampled_centers": len(sample),
        "sample_seconds": seconds,
        "scaled_seconds": seconds / len(sample) * len(lonlat),
        "unmarked_equal_share": float(((values[:, 0] - ours).abs() < 1e-6).double().mean()),
    }


def measure(name: str, device: str, size: int) -> dict[str, Any]:
    """One measurement in this process, with its peak memory."""
    source = "synthetic clustered points, 10 % duplicates"
    if name == "scaling":
        lonlat, hits = synthetic(size)
    else:
        alone = name in ("one", "nulls", "loop")
        lonlat, hits, source = fmow(1 if alone else 99)
        if alone:
            hits = hits[:, 0]
    if device == "cpu" and name != "loop":  # load what is loaded once, such as threads
        geobias.ssi(lonlat[:500], (hits if hits.ndim == 1 else hits[:, 0])[:500], radius_rad=RADIUS_RAD)
    before, cpu, load = peak_gb(), time.process_time(), load_average()
    if name == "loop":
        result = loop(lonlat, hits)
    else:
        result = nulls(lonlat, hits, device) if name == "nulls" else score(lonlat, hits, device)
    result |= {
        "cpu_seconds": time.process_time() - cpu,
        "load_before": load,
        "load_after": load_average(),
        "source": source,
        "peak_gb": peak_gb(),
        "peak_gb_before": before,
    }
    if device == "cuda":
        result["device_peak_gb"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def peak_gb() -> float:
    return peak_bytes() / 2**30


def in_own_process(name: str, device: str, size: int = 0) -> dict[str, Any]:
    command = [sys.executable, __file__, "--only", name, "--device", device, "--size", str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def median_of(name: str, device: str, repeats: int, size: int = 0) -> dict[str, Any]:
    runs = [in_own_process(name, device, size) for _ in range(repeats)]
    key = "scaled_seconds" if name == "loop" else "seconds"
    middle = sorted(runs, key=lambda run: run[key])[len(runs) // 2]
    every = [round(run[key], 4) for run in runs]
    return middle | {"median_seconds": statistics.median(every), "all_seconds": every}


def machine(device: str) -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": load_average(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--million", action="store_true", help="add one million points to the scaling curve")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "geobias.json")
    parser.add_argument("--only", choices=("one", "many", "nulls", "loop", "scaling"), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.device, arguments.size)))
        return

    settings = {"radius_rad": RADIUS_RAD, "max_neighbors": MAX_NEIGHBORS, "k": K, "repeats": arguments.repeats}
    report: dict[str, Any] = {"machine": machine(arguments.device), "settings": settings}
    for name in ("one", "many", "loop"):
        device = "cpu" if name == "loop" else arguments.device
        report[name] = median_of(name, device, arguments.repeats if name != "loop" else 1)
        print(name, report[name], flush=True)
    report["ratio_to_loop"] = report["loop"]["scaled_seconds"] / report["one"]["median_seconds"]
    report["ratio_to_loop_cpu"] = (
        report["loop"]["cpu_seconds"] / report["loop"]["sampled_centers"] * report["one"]["centers"]
    ) / report["one"]["cpu_seconds"]
    report["nulls"] = in_own_process("nulls", arguments.device)
    report["scaling"] = []
    for size in (*SIZES, *((1_000_000,) if arguments.million else ())):
        report["scaling"].append(median_of("scaling", arguments.device, arguments.repeats if size < 10**5 else 1, size))
        print(size, report["scaling"][-1], flush=True)
    report["load_at_end"] = load_average()
    atomic_write(arguments.out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
