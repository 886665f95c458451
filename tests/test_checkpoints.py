"""Released checkpoints against golden outputs, tslab's own format, and files that are neither."""

import json

import numpy as np
import pytest
import torch

import tslab

NAMES = [
    "fmow__NeRF", "yfcc__NeRF", "fmow__rff", "yfcc__rff", "yfcc__Space2Vec-grid", "yfcc__Space2Vec-theory",
    "fmow__Sphere2Vec-sphereC", "yfcc__Sphere2Vec-sphereC", "fmow__Sphere2Vec-sphereM", "yfcc__Sphere2Vec-sphereM",
    "fmow__tile_ffn", "fmow__wrap_ffn", "yfcc__wrap_ffn", "yfcc__xyz",
]  # fmt: skip


@pytest.fixture(scope="module")
def outputs(golden):
    return dict(np.load(golden / "checkpoint_outputs.npz"))


def test_every_golden_checkpoint_is_tested(golden):
    assert set(NAMES) == set(json.loads((golden / "checkpoint_outputs.json").read_text()))


@pytest.mark.mirror
@pytest.mark.parametrize("name", NAMES)
def test_released_checkpoint_gives_the_golden_embeddings_and_probabilities(name, golden, outputs, mirror):
    about = json.loads((golden / "checkpoint_outputs.json").read_text())[name]
    model = tslab.load_released_checkpoint(mirror / "pre_trained_models" / about["file"])
    lonlat = torch.from_numpy(outputs["lonlat"]).float()
    assert (model.dataset, model.epoch) == (name.split("__")[0], about["epoch"])
    embedding, probability = model.embed(lonlat), model.predict_proba(lonlat)
    print(
        name,
        np.abs(embedding.numpy() - outputs[f"{name}__embedding"]).max(),
        np.abs(probability.numpy() - outputs[f"{name}__probs"]).max(),
    )
    np.testing.assert_allclose(embedding.numpy(), outputs[f"{name}__embedding"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probability.numpy(), outputs[f"{name}__probs"], rtol=0, atol=1e-5)
    lonlat[3, 0] = torch.nan
    assert model.predict_proba(lonlat)[3].isnan().all()
    assert not model.predict_proba(lonlat)[[2, 4]].isnan().any()
