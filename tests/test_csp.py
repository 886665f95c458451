"""Pre-training: it runs on the same loop, its loss falls, it is reproducible, and it helps where labels are few."""

import pytest
import torch

from tslab.evaluation import evaluate
from tslab.tasks import Table, Task, TaskMeta, load_task
from tslab.training import train
from tslab.training.pretraining import few_shot, pretrain

SMALL = {"num_scales": 12, "min_radius": 0.05, "hidden_dim": 128, "dropout": 0.2, "activation": "gelu"}


@pytest.fixture(scope="module")
def task() -> Task:
    """The toy with synthetic image features: the species' look (a random vector) in noise."""
    toy = load_task("sphere_toy", n_train=3000, n_test=1000)
    generator = torch.Generator().manual_seed(0)
    look = torch.randn((toy.num_classes, 16), generator=generator)
    tables = {}
    for name, table in toy.tables.items():
        noise = 0.5 * torch.randn((len(table), 16), generator=generator)
        tables[name] = Table(lonlat=table.lonlat, target=table.target, image=look[table.target] + noise)
    meta = TaskMeta(kind="classification", classes=toy.meta.classes, image_kind="feats", synthetic=True)
    return Task(name="toy_features", meta=meta, **tables)


def test_few_shot_keeps_every_class_and_about_the_fraction(task: Task) -> None:
    small = few_shot(task, 0.05, seed=1)
    count, whole = (torch.bincount(t.train.target, minlength=12) for t in (small, task))
    assert torch.equal(count, (whole * 0.05).ceil().long())
    assert torch.equal(few_shot(task, 0.05, seed=1).train.id, small.train.id)
    assert len(few_shot(task, 1.0).train) == len(task.train)
    with pytest.raises(ValueError, match="fraction"):
        few_shot(task, 0)


def test_pretraining_is_reproducible_and_its_loss_falls(task: Task) -> None:
    first, second = (
        pretrain(
            task,
            "sphere2vec_sphereC+",
            epochs=3,
            lr=2e-3,
            batch_size=256,
            embedding_dim=64,
            progress=False,
            **SMALL,
        )
        for _ in range(2)
    )
    assert first.history["loss"].tolist() == second.history["loss"].tolist()
    assert first.history["loss"].iloc[-1] < first.history["loss"].iloc[0]
    copied = first.fresh_encoder()
    assert copied is not first.encoder
    assert torch.equal(copied(task.test.lonlat), first.encoder(task.test.lonlat))


def test_pretraining_helps_where_labels_are_few(task: Task) -> None:
    """Three labels for each species: an encoder that saw which places look alike ranks species better."""
    few = few_shot(task, 0.01)
    encoder = pretrain(
        task,
        "sphere2vec_sphereC+",
        epochs=12,
        lr=3e-3,
        batch_size=256,
        embedding_dim=64,
        progress=False,
        **SMALL,
    ).fresh_encoder()
    how = {"epochs": 40, "lr": 3e-3, "batch_size": 64, "progress": False}
    tuned = train(few, encoder, **how)  # type: ignore[arg-type]
    scratch = train(few, "sphere2vec_sphereC+", embedding_dim=64, **how, **SMALL)  # type: ignore[arg-type]
    top1 = {
        name: evaluate(run, task.test, use_image=False, intervals=False).metrics["top1"]
        for name, run in (("tuned", tuned), ("scratch", scratch))
    }
    assert top1["tuned"] > top1["scratch"] + 0.02


def test_pretraining_needs_images() -> None:
    with pytest.raises(ValueError, match="image features"):
        pretrain(load_task("sphere_toy", n_train=64, n_test=8, n_val=8), "xyz", epochs=1, progress=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("negatives", -1), ("temperatures", (1.0, 2.0)), ("weights", (1.0, float("nan"))), ("background", "sea")]
    + [
        ("lr", 0.0),
        ("epochs", -1),
        ("batch_size", 0),
        ("embedding_dim", 0),
        ("symmetric", 2),
        ("device", "gpu"),
    ],
)
def test_parameters_of_pretraining_are_named(task: Task, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        pretrain(task, **{"progress": False, name: value})  # type: ignore[arg-type]


def test_pretraining_names_the_row_of_a_feature_that_is_none(task: Task) -> None:
    table = Table(task.train.lonlat, task.train.target, image=task.train.image_rows().clone())
    broken = Task("broken", table, table, table, task.meta)
    broken.train.image[11, 2] = torch.nan  # a table refuses it; here it comes in afterwards
    with pytest.raises(ValueError, match="row 11"):
        pretrain(broken, progress=False)


@pytest.mark.parametrize("fraction", [0, -1, 1.5, float("nan"), "half"])
def test_few_shot_takes_a_share(task: Task, fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        few_shot(task, fraction)
