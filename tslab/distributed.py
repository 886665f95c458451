"""Several processes as one: `tslab.train` started by ``torchrun`` trains on all of them together.

    torchrun --nproc-per-node=4 your_script.py

The script is the same as for one process. Every process draws the same batches and takes its share of each,
so the gradient is that of one process with the whole batch; only the first one writes files and shows
progress.
"""

import atexit
import os

import torch
import torch.distributed


def join_processes(device: torch.device) -> None:
    """Join the processes that ``torchrun`` started, once; nothing to do without it.

    The group stays open until Python exits, because one that was closed cannot be opened again in the same
    process.

    Raises:
        ValueError: WORLD_SIZE, which ``torchrun`` sets, is no number of processes.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if not processes.isdecimal() or int(processes) < 1:
        raise ValueError(f"the environment variable WORLD_SIZE must be a number of processes, got {processes!r}")
    if int(processes) == 1 or not torch.distributed.is_available() or torch.distributed.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
