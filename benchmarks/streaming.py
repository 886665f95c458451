"""How long does it take to encode ten million rows of a Parquet file, and how much memory?

    python benchmarks/streaming.py [--rows 10000000] [--out benchmarks/results/streaming.json]

Random places are written to a Parquet file and encoded with `tslab.streaming.encode_parquet`: a location encoder
(sphere2vec_sphereC+, 16 scales, a network of 64 hidden units, 8 numbers out), float16. Each number of rows runs in a
process of its own, which reports its peak memory: it must not grow with the rows. Files lie in a temporary folder and
are deleted.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from processor import cpu_name, peak_bytes

import tslab
from tslab._files import atomic_write
from tslab.streaming import encode_parquet

THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
ENCODER = {"key": "sphere2vec_sphereC+", "embedding_dim": 8, "num_scales": 16, "hidden_dim": 64}
CHUNK = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "streaming.json")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one)))
        return
    runs = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "places.parquet"
            write_places(source, rows)
            command = [sys.executable, __file__, "--one", str(source)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        runs.append(json.loads(answer.splitlines()[-1]))
        print(runs[-1], flush=True)
    record = {
        "about": "tslab.streaming.encode_parquet on random places, one process for each number of rows",
        "date": date.today().isoformat(),
        "encoder": ENCODER,
        "machine": {
            "cpu": cpu_name(),
            "threads": THREADS,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyarrow": pa.__version__,
        },
        "runs": runs,
    }
    atomic_write(arguments.out, json.dumps(record, indent=1) + "\n")


def measure(source: Path) -> dict[str, Any]:
    """Rows, seconds, bytes of source and result, and the peak memory of this process in MB, before and after."""
    torch.set_num_threads(THREADS)
    how = dict(ENCODER)
    encoder = tslab.location_encoder(
        how.pop("key"), how.pop("embedding_dim"), generator=torch.Generator().manual_seed(0), **how
    )
    before = peak_bytes()
    target = source.with_name("encoded.parquet")
    report = encode_parquet(source, target, encoder, keep=["id"], dtype="float16", progress=False)
    return {
        **asdict(report),
        "rows_per_second": round(report.rows_per_second),
        "source_bytes": source.stat().st_size,
        "peak_mb_before": round(before / 2**20),
        "peak_mb": round(peak_bytes() / 2**20),
    }


def write_places(path: Path, rows: int) -> None:
    """Random places with an id, a million at a time."""
    generator = torch.Generator().manual_seed(0)
    schema = pa.schema({"id": pa.int64(), "lon": pa.float32(), "lat": pa.float32()})
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, CHUNK):
            n = min(CHUNK, rows - first)
            lon, lat = tslab.sample_sphere(n, generator=generator).numpy().T
            writer.write_table(pa.table([np.arange(first, first + n), lon, lat], schema=schema))


if __name__ == "__main__":
    main()
