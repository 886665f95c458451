"""The land-and-sea probes: what a linear layer must and must not be able to draw."""

import pytest
import torch

import tslab
from tslab_book.probes import fit_linear_probe, land_and_sea, train_on_land


def test_seven_tenths_of_the_earth_is_sea():
    _, land = land_and_sea(20000)
    assert 1 - float(land.mean()) == pytest.approx(0.71, abs=0.015)


def test_a_linear_layer_on_a_constant_says_sea_everywhere():
    def constant(lonlat):
        return torch.ones(len(lonlat), 3, dtype=lonlat.dtype)

    probe = fit_linear_probe(constant, n=500)
    assert probe.accuracy == pytest.approx(probe.always_sea)


def test_more_harmonics_draw_a_better_map():
    coarse, fine = (fit_linear_probe(tslab.position_encoder("siren_sh", degree=L)) for L in (2, 12))
    assert coarse.accuracy > coarse.always_sea
    assert fine.accuracy > coarse.accuracy + 0.1


def test_products_of_waves_draw_what_sums_cannot():
    encoder = tslab.position_encoder("sphere2vec_dfs", num_scales=8, min_radius=0.05)
    sums = fit_linear_probe(lambda lonlat: encoder(lonlat)[:, 4 * 64 :])
    assert fit_linear_probe(encoder).accuracy > sums.accuracy + 0.05


def test_a_probe_behind_other_anchors_is_lost():
    anchors, _ = land_and_sea(200, seed=1)
    others, _ = land_and_sea(200, seed=2)
    fitted, redrawn = (tslab.position_encoder("rbf", anchors=a, kernel_size=10.0) for a in (anchors, others))
    probe = fit_linear_probe(fitted)
    places, land = land_and_sea(4000, seed=3)

    def share_right(encoder):
        return float(((probe(places, encoder=encoder) > 0.5) == (land > 0.5)).double().mean())

    assert share_right(fitted) > 0.85
    assert share_right(redrawn) < probe.always_sea


def test_no_network_behind_wrap_tells_the_poles_apart():
    model = tslab.location_encoder(
        "wrap_ffn", 1, hidden_dim=32, dropout=0.0, generator=torch.Generator().manual_seed(0)
    )
    poles = torch.tensor([[20.0, 90.0], [20.0, -90.0]])
    run = train_on_land(model, poles, steps=(0, 60), n_train=500, batch_size=128)
    assert run.steps == [0, 60] and run.accuracy[1] > run.accuracy[0]
    assert run.pictures[1, 0] == pytest.approx(float(run.pictures[1, 1]), abs=1e-6)


def test_the_same_seed_gives_the_same_training():
    runs = []
    for _ in range(2):
        model = tslab.location_encoder("xyz", 1, hidden_dim=16, dropout=0.0, generator=torch.Generator().manual_seed(0))
        runs.append(train_on_land(model, torch.zeros(1, 2), steps=(20,), n_train=200, batch_size=64, seed=3))
    assert torch.equal(runs[0].pictures, runs[1].pictures)
