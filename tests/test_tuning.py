"""Tuning looks at the validation split only, is reproducible, and returns what `tslab.train` takes."""

from dataclasses import replace

import pytest
import torch

from tslab.tasks import Task, load_task
from tslab.training import train

pytest.importorskip("optuna", reason="needs Optuna: pip install 'tslab[tune]'")
from tslab.training.tuning import default_space, tune

SPACE = {"lr": (1e-4, 1e-1, "log"), "hidden_dim": [16, 32], "num_scales": (4, 8)}
FIXED = {"epochs": 2, "embedding_dim": 16, "batch_size": 128}


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("sphere_toy", n_train=512, n_val=128, n_test=128)


def test_the_evaluated_split_does_not_matter_and_the_search_is_reproducible(task: Task) -> None:
    how = {"trials": 3, "space": SPACE, "fixed": FIXED, "progress": False}
    first = tune(task, "sphere2vec_sphereC", **how)  # type: ignore[arg-type]
    shuffled = task.test.where(torch.arange(len(task.test)).flip(0)[:10])
    second = tune(replace(task, test=shuffled), "sphere2vec_sphereC", **how)  # type: ignore[arg-type]
    assert first.best == second.best and first.value == second.value
    assert len(first.trials) == 3
    assert first.value == first.trials["value"].max()
    train(task, "sphere2vec_sphereC", progress=False, **(FIXED | first.best))


def test_a_trial_that_explodes_is_one_failed_trial(task: Task) -> None:
    result = tune(
        task, "xyz", trials=4, space={"lr": [1e30, 1e-3]}, fixed=FIXED | {"epochs": 3}, seed=1, progress=False
    )
    assert set(result.trials["state"]) == {"complete", "fail"}
    assert result.best == {"lr": 1e-3}


def test_every_encoder_has_a_space_that_it_accepts(task: Task) -> None:
    for key in ("tile", "rbf", "nerf", "space2vec_grid", "siren_sh", "wrap", "sphere2vec_dfs"):
        assert "lr" in default_space(key)
    with pytest.raises(ValueError, match="with_validation"):
        tune(replace(task, val=task.val.where(torch.zeros(128, dtype=torch.bool))), "xyz")
