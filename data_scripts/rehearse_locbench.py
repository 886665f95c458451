"""Dress rehearsal of the paper's protocol: an archive of full size with made-up content, one epoch, time and memory.

    python data_scripts/rehearse_locbench.py inat2018 fmow --encoders sphere2vec_sphereC --folder /tmp/rehearsal

The archive has the layout, the classes and the rows of the released one (`tslab.tasks.datasets`), and nothing of its
content: places are uniform on the sphere, classes and image predictions are drawn at random. What is learnt is that
everything fits: reading, training with the paper's batches and balanced epochs, evaluation. The archive stays in the
folder, so that a second call skips the writing.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from tslab.benchmark.driver import fitted, forecast, load_run_task, training_options
from tslab.benchmark.runs import plan
from tslab.benchmark.store import ResultStore
from tslab.evaluation import evaluate
from tslab.tasks.datasets import DATASETS, DatasetInfo

NONZERO = 20
"""Predictions of an image that are not zero."""


def main(argv: list[str] | None = None) -> int:
    """Rehearse each dataset and encoder; prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", choices=["inat2017", "inat2018", "fmow"])
    parser.add_argument("--encoders", nargs="+", default=["sphere2vec_sphereC"])
    parser.add_argument("--folder", type=Path, required=True, help="where the made-up archive goes (up to 1 GB)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    for dataset in options.datasets:
        write_archive(DATASETS[dataset], options.folder)
        cell = {"datasets": [dataset], "encoders": options.encoders, "source": "locbench", "protocol": "paper"}
        for spec in plan(["top1"], **cell, epochs=1):
            started = time.perf_counter()
            task = load_run_task(spec, options.folder)
            read = time.perf_counter()
            run = fitted(task, spec.encoder, device=options.device, **training_options(spec))
            trained = time.perf_counter()
            result = evaluate(run, task.test, intervals=False)
            done = time.perf_counter()
            whole = plan(["top1"], **cell | {"encoders": [spec.encoder]})
            expected = forecast(
                whole, ResultStore(options.folder / "no store"), root=options.folder, device=options.device
            )
            epoch = run.history.iloc[0]
            parts = [
                f"{dataset} {spec.encoder}: {len(task.train):,} rows, {task.meta.num_classes:,} classes",
                f"read {read - started:.0f} s",
                f"an epoch of {int(epoch['rows']):,} rows {epoch['seconds']:.1f} s ({trained - read:.1f} s in all)",
                f"{len(result.results):,} rows evaluated in {done - trained:.1f} s",
                f"all epochs about {expected['seconds'].sum() / 60:.1f} min by measured steps",
                f"peak {memory()}",
            ]
            print("; ".join(parts), flush=True)
    return 0


def memory() -> str:
    """Most memory so far, of the process and of the GPU."""
    text = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    return text + (f", GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else "")


def write_archive(info: DatasetInfo, root: Path) -> None:
    """The files of a dataset with as many rows and classes as the released one."""
    folder, rng = root / info.folder, np.random.default_rng(0)
    if (folder / "complete").is_file():
        return
    inat, year = info.family == "inat", info.folder[-4:]
    predictions = folder / ("features_inception" if inat else "feature_moco")
    predictions.mkdir(parents=True, exist_ok=True)
    classes = info.num_classes or 0
    if inat:
        names = [{"id": i, "name": f"species {i}"} for i in range(classes)]
        (folder / f"categories{year}.json").write_text(json.dumps(names))
    else:
        (folder / "category.json").write_text(json.dumps({f"use {i}": i for i in range(classes)}))
    for split, facts in info.splits.items():
        rows = facts.rows or 0
        target = rng.integers(classes, size=rows)
        lon, lat = rng.uniform(-180, 180, rows), np.degrees(np.arcsin(rng.uniform(-1, 1, rows)))
        stem = f"{split}{year}" if inat else split
        images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(rows)]
        labels = [{"id": i, "image_id": i, "category_id": int(target[i])} for i in range(rows)]
        (folder / f"{stem}.json").write_text(json.dumps({"images": images, "annotations": labels}))
        about = [{"id": i, "lon": lon[i], "lat": lat[i], "user_id": i, "date_c": 0.5} for i in range(rows)]
        (folder / f"{stem}_location{'s' if inat else ''}.json").write_text(json.dumps(about))
        if split == info.eval_split and inat:
            columns = rng.integers(classes, size=(rows, NONZERO))
            columns[:, 0] = target
            starts = np.arange(rows + 1) * NONZERO
            values = rng.dirichlet(np.ones(NONZERO), rows).astype(np.float32).ravel()
            matrix = sp.csr_matrix((values, columns.ravel(), starts), shape=(rows, classes))
            matrix.sum_duplicates()
            sp.save_npz(predictions / f"{info.folder.replace('_', '')}_{split}_preds_sparse.npz", matrix)
        elif split == info.eval_split:
            np.save(predictions / f"fmow_{split}_preds.npy", rng.dirichlet(np.ones(classes), rows).astype(np.float32))
    (folder / "complete").touch()


if __name__ == "__main__":
    sys.exit(main())
