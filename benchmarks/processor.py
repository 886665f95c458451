"""What the benchmarks say about the machine they ran on, as far as the system tells."""

import importlib
import os
import platform
import sys
from pathlib import Path


def cpu_name() -> str:
    """Model name of the processor, or its architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def load_average() -> float:
    """Processes that ran or waited in the last minute; NaN on Windows."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def peak_bytes() -> float:
    """Largest memory that this process has held so far; NaN on Windows."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says here includes the process that started this one
        peak = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
