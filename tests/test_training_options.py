"""Options of training are listed once and refused by name before anything is written; run folders survive accidents."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tslab
from tslab._files import DamagedFileError, FolderInUseError
from tslab.tasks import Table, Task, TaskMeta
from tslab.training import TrainConfig, TrainOptions, load_run, train
from tslab.training.config import OPTION_NAMES, resolve_device, resolve_options
from tslab.training.folder import data_digest

SMALL: dict[str, Any] = {"epochs": 1, "embedding_dim": 8, "hidden_dim": 8, "progress": False, "device": "cpu"}


def task(rows: int = 40, *, kind: str = "classification", name: str = "mine", image: int = 0) -> Task:
    generator = torch.Generator().manual_seed(0)
    lonlat = tslab.sample_sphere(rows, generator=generator)
    target = torch.arange(rows) % 3 if kind == "classification" else lonlat[:, 1].clone()
    features = torch.rand((rows, image), generator=generator) if image else None
    table = Table(lonlat, target, image=features)
    classes = tuple("abc") if kind == "classification" else ()
    meta = TaskMeta(kind=kind, classes=classes, image_kind="feats" if image else "none")  # type: ignore[arg-type]
    return Task(name, table, table, table, meta)


# -------------------------------------------------------------------------------------------- options


def test_train_names_every_option_and_leaves_each_to_the_list() -> None:
    """The signature is for editors; what an option is by default stands in `TrainOptions` alone."""
    parameters = inspect.signature(train).parameters
    assert [name for name in parameters if name in OPTION_NAMES] == list(OPTION_NAMES)
    assert all(parameters[name].default is None for name in OPTION_NAMES)
    assert all(name in (TrainOptions.__doc__ or "") for name in OPTION_NAMES)
    assert set(OPTION_NAMES) < {f.name for f in dataclasses.fields(TrainConfig)}


def test_what_you_pass_wins_over_the_preset_and_the_preset_over_the_rest() -> None:
    recorded = {"lr": 0.1, "batch_size": 8, "epochs": 2}
    preset: dict[str, Any] = {"preset": "locbench2024", "kind": "classification"}
    assert resolve_options({}, recorded, **preset)["max_per_class"] == 100
    assert resolve_options({"max_per_class": 0}, recorded, **preset)["max_per_class"] is None
    assert resolve_options({"lr": 0.2}, recorded, **preset)["lr"] == 0.2
    assert resolve_options({}, recorded, preset=None, kind="regression")["schedule"] == "cosine"


WRONG: list[tuple[str, Any]] = [
    *[("lr", value) for value in (0, -1e-3, float("nan"), float("inf"), "fast", True)],
    ("loss_eps", float("nan")),
    *[("lr_decay", 0), ("lr_decay", float("nan")), ("weight_decay", -1), ("weight_decay", float("inf"))],
    *[("epochs", -1), ("epochs", 2.5), ("batch_size", 0), ("patience", 0), ("patience", -3), ("seed", -1)],
    *[
        ("schedule", "cos"),
        ("background", "sea"),
        ("fusion", "add"),
        ("precision", "float16"),
        ("preset", "x"),
    ],
    *[("location_activation", "tanh"), ("standardise_label", "no"), ("head", 256), ("head", (8, 0))],
    *[("head_dropout", 1.0), ("head_dropout", -0.1), ("embedding_dim", 0), ("max_per_class", -1)],
    *[("background_weight", -1), ("loss_eps", 2), ("device", "gpu"), ("device", "meta")],
    *[("compile", "yes"), ("on_epoch", 3), ("hidden_dim", 0), ("hiden_dim", 8), ("dropout", 2.0)],
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value}" for name, value in WRONG])
def test_a_value_out_of_range_is_named_and_leaves_no_folder(tmp_path: Path, name: str, value: Any) -> None:
    folder = tmp_path / "run"
    with pytest.raises((ValueError, TypeError), match=name):
        train(task(kind="regression", image=2), "xyz", run_dir=folder, **(SMALL | {name: value}))
    assert not folder.exists()
    train(task(kind="regression", image=2), "xyz", run_dir=folder, **SMALL)  # the corrected call


@pytest.mark.parametrize("what", ["label", "image"])
def test_data_that_cannot_be_learned_from_leave_no_folder(tmp_path: Path, what: str) -> None:
    """A table refuses such numbers; here they come in afterwards."""
    good = task(kind="regression", image=2).train
    table = Table(good.lonlat, good.target.clone(), image=good.image_rows().clone())
    broken = Task("mine", table, table, table, TaskMeta(kind="regression", image_kind="feats"))
    if what == "label":
        table.target[7] = torch.inf
    else:
        broken.train.image[7, 1] = torch.nan
    with pytest.raises(ValueError, match=f"{what}.*row 7"):
        train(broken, "xyz", run_dir=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_options(tmp_path: Path) -> None:
    options = SMALL | {"epochs": np.int64(1), "hidden_dim": np.int64(8), "lr": np.float32(0.01)}
    run = train(task(), "xyz", run_dir=tmp_path / "run", **options)
    assert load_run(tmp_path / "run").config == run.config


def test_what_is_no_task_and_no_encoder_is_answered_with_the_function_that_makes_one() -> None:
    with pytest.raises(TypeError, match=r"tslab\.load_task\('sphere_toy'\)"):
        train("sphere_toy")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tslab\.location_encoder"):
        train(task(), tslab.position_encoder("xyz"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float32"):
        train(task(), tslab.location_encoder("xyz", 8).double(), **{k: SMALL[k] for k in ("epochs", "progress")})
    with pytest.raises(ValueError, match="auto"):
        resolve_device("cuda:99")


# -------------------------------------------------------------------------------------------- folders


def weights_of(run: tslab.Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_a_run_is_not_continued_on_other_rows(tmp_path: Path) -> None:
    train(task(40), "xyz", run_dir=tmp_path / "run", **SMALL)
    with pytest.raises(ValueError, match="other rows"):
        train(task(41), resume=tmp_path / "run", progress=False)
    train(task(40), resume=tmp_path / "run", progress=False)


def test_the_digest_of_data_sees_places_labels_and_images_and_not_where_they_lie() -> None:
    table = task(image=3).train
    moved = Table(table.lonlat.flip(0), table.target, image=table.image)
    relabelled = Table(table.lonlat, table.target.flip(0), image=table.image)
    repainted = Table(table.lonlat, table.target, image=1 - table.image_rows())
    digests = [data_digest(t) for t in (table, moved, relabelled, repainted, table.where(torch.arange(39)))]
    assert len(set(digests)) == 5
    assert data_digest(task(image=3).train) == digests[0] != data_digest(table, table)


def test_a_run_of_before_has_no_digest_and_can_be_continued(tmp_path: Path) -> None:
    train(task(), "xyz", run_dir=tmp_path / "run", **SMALL)
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    del content["data"]
    path.write_text(json.dumps(content))
    assert load_run(tmp_path / "run").config.data is None
    assert len(train(task(), resume=tmp_path / "run", progress=False).history) == 1


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    refused = []

    def second(row: dict[str, float]) -> None:
        with pytest.raises(FolderInUseError, match="another run_dir"):
            train(task(), resume=tmp_path / "run", progress=False)
        refused.append(row["epoch"])

    train(task(), "xyz", run_dir=tmp_path / "run", on_epoch=second, **SMALL)
    assert refused == [0]


KILLED = """
import sys, tslab
from tests.test_training_options import SMALL, task
from tslab.training import loop
loop._Steps.run_epoch = lambda *a, **k: __import__("os")._exit(9)
tslab.train(task(), "xyz", run_dir=sys.argv[1], **SMALL)
"""


def test_a_run_killed_in_its_first_epoch_can_be_started_again_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": root},
        check=False,
    )
    assert done.returncode == 9 and (folder / "config.json").is_file()
    (folder / ".checkpoint-k1ll3d.pt").write_bytes(b"half")  # what a kill inside a write leaves
    with pytest.raises(FileNotFoundError, match="resume="):
        load_run(folder)
    run = train(task(), "xyz", run_dir=folder, **(SMALL | {"lr": 0.5}))
    assert load_run(folder).config.lr == 0.5 and len(run.history) == 1
    assert not list(folder.glob(".checkpoint-*"))


def test_files_of_others_are_not_mixed_with_a_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="another run_dir"):
        train(task(), "xyz", run_dir=tmp_path, **SMALL)
    with pytest.raises(FileExistsError, match="is a file"):
        train(task(), "xyz", run_dir=tmp_path / "notes.txt", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_of_few_places_has_as_many_anchors(tmp_path: Path) -> None:
    """rbf asks for 200 anchors, and 40 places are 40 anchors."""
    run = train(task(40), "rbf", run_dir=tmp_path / "run", **SMALL)
    again = load_run(tmp_path / "run")
    assert torch.equal(weights_of(run), weights_of(again))
    places = task(40).test.lonlat
    assert torch.equal(run.model(places), again.model(places))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(task(), "xyz", run_dir=folder, **SMALL)
    return folder


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE: dict[str, tuple[str, Any]] = {
    "checkpoint empty": ("checkpoint.pt", lambda b: b""),
    "checkpoint cut in the middle": ("checkpoint.pt", lambda b: b[: len(b) // 2]),
    "checkpoint without its end": ("checkpoint.pt", lambda b: b[:-10]),
    "one bit of a weight": (
        "checkpoint.pt",
        lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :],
    ),
    "checkpoint of something else": ("checkpoint.pt", lambda b: b"hello"),
    "config cut": ("config.json", lambda b: b[:50]),
    "config a list": ("config.json", lambda b: b"[]"),
    "config without options": ("config.json", lambda b: b"{}"),
    "config with a wrong number": ("config.json", lambda b: b.replace(b'"epochs": 1', b'"epochs": -1')),
    "config of another width": (
        "config.json",
        lambda b: b.replace(b'"embedding_dim": 8', b'"embedding_dim": 9'),
    ),
    "environment cut": ("environment.json", lambda b: b[:20]),
}


@pytest.mark.parametrize("what", list(DAMAGE))
def test_a_damaged_file_of_a_run_is_named_with_the_way_out(finished: Path, what: str) -> None:
    name, change = DAMAGE[what]
    path = finished / name
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    try:
        named = "checkpoint.pt" if "width" in what else name
        with pytest.raises(DamagedFileError, match=rf"{named}.*(put|delete)"):
            load_run(finished)
        if name != "environment.json":
            with pytest.raises(ValueError, match=named):
                train(task(), resume=finished, progress=False)
    finally:
        path.write_bytes(whole)
    assert len(load_run(finished).history) == 1


def test_an_encoder_of_ones_own_that_is_not_registered_is_named(finished: Path) -> None:
    path = finished / "config.json"
    whole = path.read_text()
    path.write_text(whole.replace('"xyz"', '"mine"'))
    with pytest.raises(KeyError, match=r"mine.*register_encoder"):
        load_run(finished)
    path.write_text(whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tslab.training.folder import LoopState, save_state
    from tslab.training.loop import make_optimizer

    model, cpu = torch.nn.Linear(100, 100), torch.device("cpu")
    optimizer = make_optimizer(list(model.parameters()), TrainOptions(epochs=1, lr=1, batch_size=1), cpu)
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: opened(Path("/dev/full"), mode))
    with pytest.raises(OSError, match=r"no space left to write .*checkpoint\.pt"):
        save_state(tmp_path / "checkpoint.pt", model, optimizer, torch.Generator(), LoopState())
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------- frozen encoders


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_in_evaluation_mode_stays_there(frozen: bool) -> None:
    encoder = tslab.location_encoder("xyz", 8, hidden_dim=8, dropout=0.5).eval().requires_grad_(not frozen)
    before = torch.cat([p.detach().flatten() for p in encoder.parameters()]).clone()
    seen = []
    encoder.network.register_forward_hook(lambda module, *_: seen.append(module.training))
    train(task(), encoder, epochs=2, patience=1, progress=False, device="cpu")
    after = torch.cat([p.detach().flatten() for p in encoder.parameters()])
    assert torch.equal(before, after) == frozen
    assert any(seen) != frozen  # dropout is on where it is trained further
