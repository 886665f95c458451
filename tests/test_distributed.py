"""Two processes (gloo) do what one does; a sweep repeats what failed and nothing that is finished."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tslab.tasks import load_task
from tslab.training import load_run

SCRIPT = """
import os
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
from tslab.encoders import location_encoder
from tslab.models import LocationClassifier
from tslab.training.config import TrainOptions
from tslab.training.loop import PresenceOnly, current_share, join_processes
from tslab.tasks import load_task
from tslab.training import train


def gradient():
    cpu = torch.device("cpu")
    join_processes(cpu)
    generator = torch.Generator().manual_seed(0)
    small = {"num_scales": 4, "hidden_dim": 32, "dropout": 0.0}
    encoder = location_encoder("sphere2vec_sphereC", 32, generator=generator, **small)
    model = LocationClassifier(encoder, 12, generator=generator).double()
    options = TrainOptions(epochs=1, lr=1e-3, batch_size=301)
    objective = PresenceOnly(load_task("sphere_toy", n_train=301, n_val=8, n_test=8).train, cpu, options)
    share = current_share()
    forward = DistributedDataParallel(model) if share.world > 1 else model
    draw = torch.Generator().manual_seed(1)
    lonlat, target, rows = objective.batch(objective.epoch_rows(draw), draw, share)
    objective.loss(forward, lonlat.double(), target, rows).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def run(folder=None):
    task = load_task("sphere_toy", n_train=301, n_val=64, n_test=64)
    return train(task, "sphere2vec_sphereC", epochs=2, num_scales=4, hidden_dim=32, dropout=0.0, batch_size=64,
                 device="cpu", run_dir=folder, progress=False)


if __name__ == "__main__":
    folder = sys.argv[1]
    torch.save(gradient(), f"{folder}/gradient-{os.environ['RANK']}.pt")
    run(folder + "/run")
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes wrote: gradients, and a run."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    done = subprocess.run(
        [*launcher, str(folder / "script.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one_process() -> dict[str, Any]:
    """The functions of the same script, in this process."""
    namespace: dict[str, Any] = {"__name__": "script"}
    exec(SCRIPT, namespace)
    return namespace


def test_two_processes_have_the_gradient_of_one(two_processes: Path, one_process: dict[str, Any]) -> None:
    """301 rows do not divide by two: the shares weigh what they hold."""
    one = one_process["gradient"]()
    for rank in (0, 1):
        two = torch.load(two_processes / f"gradient-{rank}.pt")
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-14)


def test_two_processes_train_the_run_of_one(two_processes: Path, one_process: dict[str, Any]) -> None:
    one, two = one_process["run"](), load_run(two_processes / "run")
    assert two.history["loss"].tolist() == pytest.approx(one.history["loss"].tolist(), rel=1e-4)
    assert two.environment["processes"] == 2
    places = load_task("sphere_toy", n_train=8, n_val=8, n_test=64).test.lonlat
    torch.testing.assert_close(two.model(places), one.model(places), rtol=1e-2, atol=1e-2)


def test_a_sweep_runs_each_job_once_and_repeats_what_failed(tmp_path: Path) -> None:
    from tslab_book.sweeps import Job, sweep

    jobs = [
        Job(
            "sphere_toy",
            encoder,
            seed,
            task_options={"n_train": 128, "n_val": 16, "n_test": 64},
            options=options,
        )
        for encoder, options in (("xyz", {"epochs": 1}), ("class_frequency", {}), ("rff", {"epochs": 1}))
        for seed in (0, 1)
    ]
    first = sweep(jobs, tmp_path, scheduler="synchronous", progress=False)
    assert (first["status"] == "done").all() and len(first) == 6
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(stamps) == 6
    again = sweep(jobs, tmp_path, scheduler="synchronous", progress=False)
    pd.testing.assert_frame_equal(first, again)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == stamps
    bad = [*jobs, Job("sphere_toy", "xyz", 2, options={"epochs": 1, "lr": 1e30, "batch_size": 64})]
    with_failure = sweep(bad, tmp_path, scheduler="synchronous", retries=1, progress=False)
    failed = with_failure[with_failure["status"] == "failed"]
    assert len(failed) == 1 and "NonFiniteLossError" in failed["error"].iloc[0]
    assert failed["attempts"].iloc[0] == 2


@pytest.mark.slow
def test_a_dead_dask_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    """The job kills its worker the first time it runs; the scheduler gives it to another one."""
    distributed = pytest.importorskip("distributed", reason="needs dask.distributed: pip install 'tslab[sweep]'")
    from tslab_book.sweeps import Job, run_job, sweep

    marker = tmp_path / "died-once"

    def die_once(job: Job, folder: str) -> dict[str, Any]:
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return run_job(job, folder)

    job = Job(
        "sphere_toy",
        "xyz",
        0,
        options={"epochs": 1},
        task_options={"n_train": 128, "n_val": 16, "n_test": 64},
    )
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        table = sweep([job], tmp_path / "runs", scheduler=address, run=die_once, progress=False)
    assert marker.exists()
    assert table["status"].tolist() == ["done"]


@pytest.mark.slow
def test_every_task_trains_and_evaluates_from_one_command(tmp_path: Path) -> None:
    from tslab.tasks import TASK_NAMES
    from tslab_book.sweeps import main

    arguments = ["--tasks", *TASK_NAMES, "--encoders", "xyz", "--folder", str(tmp_path)]
    main(
        [
            *arguments,
            "--scheduler",
            "synchronous",
            "--options",
            '{"epochs": 1}',
            "--task-options",
            '{"scale": "tiny"}',
        ]
    )
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert table["task"].tolist() == list(TASK_NAMES) and (table["status"] == "done").all()
    assert (table["top1"].notna() | table["r2"].notna()).all()
    for path in tmp_path.glob("*/strata.csv"):
        assert pd.read_csv(path)["stratum"].iloc[0] == "all"
    assert len(list(tmp_path.glob("*/strata.csv"))) == len(TASK_NAMES)


def test_jobs_have_names_that_tell_them_apart() -> None:
    from tslab_book.sweeps import Job

    a, b, c = (
        Job("sphere_toy", "xyz", 0),
        Job("sphere_toy", "xyz", 0, options={"lr": 0.1}),
        Job("sphere_toy", "xyz", 1),
    )
    assert len({a.name, b.name, c.name}) == 3
    assert a.name.startswith("sphere_toy-xyz-0")
    assert Job("sphere_toy", "xyz", 0).name == a.name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--retries", "-1"], "retries"),
        (["--workers", "0"], "workers"),
        (["--seeds", "-1"], "seed"),
        (["--tasks", "no_task"], "no_task"),
        (["--encoders", "no_encoder"], "no_encoder"),
        (["--options", "[1]"], "JSON object"),
        (["--task-options", "{"], "not JSON"),
        (["--scheduler", "nowhere"], "nowhere"),
        (["--import", "no_such_module"], "no_such_module"),
        (["--folder", "a_file"], "a_file"),
    ],
)
def test_a_sweep_refuses_by_name_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    name: str,
) -> None:
    from tslab_book.sweeps import main

    monkeypatch.chdir(tmp_path)
    Path("a_file").write_text("x")
    try:
        code = main(["--tasks", "sphere_toy", "--encoders", "xyz", "--folder", "sweep", *words])
    except SystemExit as error:  # argparse itself
        code = int(error.code or 0)
    assert code == 2 and name in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_a_damaged_result_of_a_sweep_is_a_failed_row_and_the_others_stand(tmp_path: Path) -> None:
    from tslab_book.sweeps import Job, sweep

    sizes = {"n_train": 64, "n_val": 8, "n_test": 16}
    jobs = [Job("sphere_toy", key, 0, task_options=sizes) for key in ("class_frequency", "knn")]
    sweep(jobs, tmp_path, scheduler="synchronous", progress=False)
    path = tmp_path / jobs[0].name / "result.json"
    path.write_text(path.read_text()[:50])
    table = sweep(jobs, tmp_path, scheduler="synchronous", progress=False)
    assert table["status"].tolist() == ["failed", "done"]
    assert "result.json is damaged" in table["error"][0] and "delete it" in table["error"][0]
