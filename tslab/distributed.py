"""Several processes as one: `tslab.train` started by ``torchrun`` trains on all of them together.

    torchrun --nproc-per-node=4 your_script.py

The script is the same as for one process. Every process draws the same batches and takes its share of each,
so the gradient is that of one process with the whole batch; only the first one writes files and shows progress.
"""

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that ``torchrun`` started (nothing to do without it, or when they are joined already)."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or not torch.distributed.is_available() or torch.distributed.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
