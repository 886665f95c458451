"""How fast is training? Each step against the bare matrix multiplications of the same shapes, in the same
run.

    python benchmarks/train.py [--repeats 5] [--out benchmarks/results/train.json]

The limit is what the hardware needs for the products alone: forward, gradients of the weights, gradients of
the inputs (which the first layer does not need), in the same precision and the same order. Everything else
(position encoding, dropout, norm, loss, optimiser, batches) is overhead. Limit and step are measured in
turns, and medians are reported.

Data are random places and classes of the size of BirdSnap† (CPU) or iNat2018 (GPU): speed does not depend on
their values.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from processor import load_average

import tslab
from tslab._files import atomic_write
from tslab.evaluation import evaluate
from tslab.models import LocationClassifier
from tslab.tasks import Table
from tslab.training.config import TrainOptions
from tslab.training.loop import PresenceOnly, Share, autocast, make_optimizer

SIZES: dict[str, dict[str, Any]] = {
    "birdsnap_ebird": {
        "rows": 42_490,
        "classes": 500,
        "batch": 1024,
        "hidden": 512,
        "max_per_class": 100,
        "epochs": 30,
    },
    "inat2018": {
        "rows": 436_063,
        "classes": 8142,
        "batch": 1024,
        "hidden": 1024,
        "max_per_class": 100,
        "epochs": 100,
    },
}
EVALUATION = {"rows": 53_041, "classes": 62}
EMBEDDING, SCALES = 256, 64


def random_table(rows: int, classes: int, seed: int = 0) -> Table:
    """Places uniform on the sphere; class sizes fall like 1 / rank, so that the balanced cap has something to
    do."""
    generator = torch.Generator().manual_seed(seed)
    frequency = 1 / torch.arange(1, classes + 1, dtype=torch.float64).sqrt()
    target = torch.multinomial(frequency, rows, replacement=True, generator=generator)
    return Table(lonlat=tslab.sample_sphere(rows, generator=generator), target=target)


def build(size: dict[str, Any], device: torch.device) -> tuple[LocationClassifier, PresenceOnly]:
    generator = torch.Generator().manual_seed(0)
    encoder = tslab.location_encoder(
        "sphere2vec_sphereC+", EMBEDDING, num_scales=SCALES, hidden_dim=size["hidden"], generator=generator
    )
    model = LocationClassifier(encoder, size["classes"], generator=generator).to(device).train()
    table = random_table(size["rows"], size["classes"])
    options = TrainOptions(epochs=1, lr=1e-3, batch_size=size["batch"], max_per_class=size["max_per_class"])
    return model, PresenceOnly(table, device, options)


def make_step(size: dict[str, Any], device: torch.device, precision: str, compiled: bool) -> Callable[[], None]:
    """One training step, as in `tslab.training.loop`."""
    model, objective = build(size, device)
    optimizer = make_optimizer(list(model.parameters()), TrainOptions(epochs=1, lr=1e-3, batch_size=1024), device)
    loss_of = torch.compile(objective.loss) if compiled else objective.loss
    generator = torch.Generator(device).manual_seed(0)
    batches = iter([])  # type: ignore[var-annotated]

    def step() -> None:
        nonlocal batches
        rows = next(batches, None)
        if rows is None or len(rows) < size["batch"]:
            batches = iter(objective.epoch_rows(generator).split(size["batch"]))
            rows = next(batches)
        inputs = objective.batch(rows, generator, Share())
        with autocast(precision, device):
            loss = loss_of(model, *inputs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def make_limit(size: dict[str, Any], device: torch.device, precision: str) -> Callable[[], None]:
    """The matrix products of one step and nothing else."""
    half = device.type == "cuda" and precision != "float32"
    kind = torch.bfloat16 if half else torch.float32
    rows, widths = 2 * size["batch"], [6 * SCALES, size["hidden"], EMBEDDING, size["classes"]]
    x = [torch.randn((rows, width), device=device, dtype=kind) for width in widths]
    w = [torch.randn((b, a), device=device, dtype=kind) for a, b in itertools.pairwise(widths)]

    def products() -> None:
        for i, weight in enumerate(w):
            x[i] @ weight.T
        for i in reversed(range(len(w))):
            x[i + 1].T @ x[i]
            if i:
                x[i + 1] @ w[i]

    return products


def flops_of(size: dict[str, Any]) -> float:
    """Floating point operations of `make_limit`."""
    rows, widths = 2 * size["batch"], [6 * SCALES, size["hidden"], EMBEDDING, size["classes"]]
    products = [a * b for a, b in itertools.pairwise(widths)]
    return 2.0 * rows * (3 * sum(products) - products[0])


def seconds(call: Callable[[], Any], device: torch.device, times: int) -> tuple[float, float]:
    """(wall time, processor time of all threads) of a call, means over ``times`` calls."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        call()
    synchronise(device)
    return (time.perf_counter() - wall) / times, (time.process_time() - cpu) / times


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(
    calls: dict[str, Callable[[], Any]], device: torch.device, repeats: int, times: int
) -> dict[str, list[tuple[float, float]]]:
    """Times of each call, measured one after the other ``repeats`` times, after a warm-up."""
    for call in calls.values():
        seconds(call, device, 3)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            measured[name].append(seconds(call, device, times))
    return measured


def measure_size(name: str, device: torch.device, repeats: int, times: int, compiled: bool) -> dict[str, Any]:
    size, precision = SIZES[name], "auto"
    calls = {"limit": make_limit(size, device, precision), "eager": make_step(size, device, precision, False)}
    if compiled:
        calls["compiled"] = make_step(size, device, precision, True)
    measured = in_turns(calls, device, repeats, times)
    report: dict[str, Any] = {"size": size, "gflop_per_step": flops_of(size) / 1e9}
    for i, clock in enumerate(("wall", "processor")):
        values = {key: [pair[i] for pair in pairs] for key, pairs in measured.items()}
        report[f"{clock}_seconds_per_step"] = {key: statistics.median(v) for key, v in values.items()}
        report[f"{clock}_ratio_to_limit"] = {
            key: statistics.median(a / b for a, b in zip(v, values["limit"], strict=True))
            for key, v in values.items()
            if key != "limit"
        }
        report[f"{clock}_all_seconds"] = values
    return report


def measure_evaluation(device: torch.device, repeats: int) -> dict[str, Any]:
    """Evaluation of an fMoW-sized table (location and image), without intervals and with them."""
    table = random_table(EVALUATION["rows"], EVALUATION["classes"])
    image = torch.rand((len(table), EVALUATION["classes"]), generator=torch.Generator().manual_seed(1))
    table = Table(lonlat=table.lonlat, target=table.target, image=image / image.sum(1, keepdim=True)).to(device)
    encoder = tslab.location_encoder("sphere2vec_sphereC+", EMBEDDING, num_scales=SCALES, hidden_dim=512)
    model = LocationClassifier(encoder, EVALUATION["classes"]).to(device)
    calls = {
        "metrics, strata, blocks": lambda: evaluate(model, table, intervals=False),
        "the same with bootstrap intervals": lambda: evaluate(model, table),
    }
    report: dict[str, Any] = {"size": EVALUATION}
    for name, call in calls.items():
        call()
        pairs = [seconds(call, device, 1) for _ in range(repeats)]
        for i, clock in enumerate(("wall", "processor")):
            report.setdefault(f"{clock}_seconds", {})[name] = statistics.median(pair[i] for pair in pairs)
    return report


def measure_epochs(name: str, device: torch.device, epochs: int) -> dict[str, Any]:
    """Wall time of whole epochs through `tslab.train`, set-up and compilation included."""
    from tslab.tasks import Task, TaskMeta

    size = SIZES[name]
    table = random_table(size["rows"], size["classes"])
    meta = TaskMeta(kind="classification", classes=tuple(map(str, range(size["classes"]))), synthetic=True)
    task = Task(name=name, train=table, val=table.where(torch.arange(8)), test=table.where(torch.arange(8)), meta=meta)
    options = {"num_scales": SCALES, "hidden_dim": size["hidden"], "max_per_class": size["max_per_class"]}
    started = time.perf_counter()
    run = tslab.train(
        task,
        "sphere2vec_sphereC+",
        epochs=epochs,
        batch_size=size["batch"],
        device=device,
        progress=False,
        **options,
    )
    total = time.perf_counter() - started
    return {
        "epochs": epochs,
        "seconds": total,
        "seconds_per_epoch_median": float(run.history["seconds"].median()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--times", type=int, default=10, help="steps in one repeat")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--epochs", type=int, default=0, help="also time so many whole epochs through tslab.train")
    parser.add_argument("--out", default="benchmarks/results/train.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(
        "cuda" if given.device == "auto" and torch.cuda.is_available() else given.device.replace("auto", "cpu")
    )
    name = "inat2018" if device.type == "cuda" else "birdsnap_ebird"
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    load = load_average()
    report: dict[str, Any] = {
        "machine": {
            "cpu_cores": os.cpu_count(),
            "threads": given.threads,
            "gpu": gpu,
            "system": platform.system(),
        },
        "torch": torch.__version__,
        "load_average_before": load,
        "training": {name: measure_size(name, device, given.repeats, given.times, not given.no_compile)},
        "evaluation": measure_evaluation(device, given.repeats),
    }
    if given.epochs:
        report["epochs"] = {name: measure_epochs(name, device, given.epochs)}
    path = Path(given.out)
    stored = json.loads(path.read_text()) if path.is_file() else {}
    stored[f"{device.type}, {given.threads} threads" if device.type == "cpu" else device.type] = report
    atomic_write(path, json.dumps(stored, indent=2) + "\n")
    print(json.dumps({k: v for k, v in report["training"][name].items() if not k.endswith("all_seconds")}, indent=2))
    print(json.dumps(report["evaluation"], indent=2), f"load {load:.1f}")


if __name__ == "__main__":
    main()
