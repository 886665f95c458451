"""Models by facts: shapes, scales, fusion, missing places, and that tiny sets can be learned by heart."""

import pytest
import torch

from tslab import location_encoder, sample_sphere
from tslab.earth import cell_corner, continents, grid_cells, strata
from tslab.encoders import EqualEarthFourier
from tslab.evaluation import evaluate
from tslab.hyperparameters import hyperparameters, recorded_hyperparameters
from tslab.models import Ensemble, LateFusion, LocationClassifier, PriorProduct, Regressor, ScalarFeatures, mlp
from tslab.tasks import Table, Task, TaskMeta
from tslab.training import train

SMALL = {"num_scales": 8, "min_radius": 0.05, "hidden_dim": 64, "dropout": 0.0}


def places(n: int, seed: int = 0) -> torch.Tensor:
    return sample_sphere(n, generator=torch.Generator().manual_seed(seed))


def regression_task(n: int = 600, *, scalar: bool = False, image: bool = True, missing: float = 0.0) -> Task:
    """Synthetic: label = 1000 + 300 (g(place) + h(image)), half of the variance from each."""
    generator = torch.Generator().manual_seed(0)
    tables = {}
    for i, name in enumerate(("train", "val", "test")):
        lonlat = places(n, i)
        smooth = torch.sin(torch.deg2rad(2 * lonlat[:, 1]))
        smooth = (smooth - smooth.mean()) / smooth.std()
        if scalar:
            features = torch.exp(2 * torch.randn((n, 1), generator=generator))  # like lights: positive, long tail
            seen = torch.log1p(features[:, 0])
            seen = (seen - seen.mean()) / seen.std()
        else:
            features = 5 + 3 * torch.randn((n, 6), generator=generator)
            seen = (features[:, 0] - 5) / 3
        lonlat[torch.rand(n, generator=generator) < missing] = torch.nan
        label = 1000 + 300 * (smooth + seen) / 2**0.5
        tables[name] = Table(lonlat=lonlat, target=label, image=features if image else None)
    kind = ("scalar" if scalar else "feats") if image else "none"
    return Task(name="synthetic_regression", meta=TaskMeta(kind="regression", image_kind=kind), **tables)  # type: ignore[arg-type]


def r2(run: object, task: Task) -> float:
    return evaluate(run, task.test, intervals=False).metrics["r2"]


HOW = {"epochs": 20, "lr": 5e-3, "batch_size": 64, "progress": False, "embedding_dim": 32, "head": (32,)}


@pytest.mark.parametrize("fusion", ["concat", "hadamard"])
def test_fusion_sees_more_than_place_or_image_alone(fusion: str) -> None:
    """Place and image carry half of the variance each, so either alone reaches R2 1/2 and both reach 1."""
    task = regression_task()
    both = train(task, "sphere2vec_sphereC", fusion=fusion, **HOW, **SMALL)  # type: ignore[arg-type]
    assert r2(both, task) > 0.85


def test_place_alone_and_image_alone_reach_their_halves() -> None:
    task = regression_task(2000)
    coarse = SMALL | {"num_scales": 2, "min_radius": 0.5}
    place = train(task, "sphere2vec_sphereC", fusion="none", **(HOW | {"epochs": 8}), **coarse)  # type: ignore[arg-type]
    image = train(task, "no_prior", **HOW)  # type: ignore[arg-type]
    assert r2(place, task) == pytest.approx(0.5, abs=0.12)
    assert r2(image, task) == pytest.approx(0.5, abs=0.12)


def test_a_scalar_night_light_is_a_working_input() -> None:
    task = regression_task(scalar=True)
    image = train(task, "no_prior", **HOW)  # type: ignore[arg-type]
    assert r2(image, task) == pytest.approx(0.5, abs=0.12)
    both = train(task, "sphere2vec_sphereC", **HOW, **SMALL)  # type: ignore[arg-type]
    assert r2(both, task) > 0.85


def test_missing_places_are_learned_around() -> None:
    task = regression_task(missing=0.3)
    run = train(task, "sphere2vec_sphereC", **HOW, **SMALL)  # type: ignore[arg-type]
    result = evaluate(run, task.test, intervals=False)
    assert result.results["prediction"].notna().all()
    assert tuple(result.results.columns) == ("lon", "lat", "prediction", "label")
    assert result.strata.set_index("stratum").loc["missing", "n"] == int((~task.test.has_location).sum())
    assert result.metrics["r2"] > 0.5


def test_the_unit_of_the_label_does_not_matter() -> None:
    """Standardised inside: a label in millimetres gives the prediction in metres times 1000."""
    metres = regression_task(200, image=False)
    tables = {k: Table(lonlat=t.lonlat, target=t.target * 1000) for k, t in metres.tables.items()}
    millimetres = Task(name="synthetic_regression", meta=metres.meta, **tables)
    a, b = (train(t, "xyz", epochs=3, hidden_dim=32, dropout=0.0, progress=False) for t in (metres, millimetres))
    torch.testing.assert_close(1000 * a.model(metres.test.lonlat), b.model(metres.test.lonlat), rtol=1e-3, atol=10.0)


def test_a_tiny_set_is_learned_by_heart() -> None:
    generator = torch.Generator().manual_seed(3)
    table = Table(lonlat=places(24), target=torch.randn(24, generator=generator))
    task = Task(name="tiny", train=table, val=table, test=table, meta=TaskMeta(kind="regression"))
    run = train(task, "sphere2vec_sphereC+", epochs=150, lr=3e-3, head_dropout=0.0, progress=False, **SMALL)  # type: ignore[arg-type]
    assert r2(run, task) > 0.99
    classes = Table(lonlat=places(24), target=torch.arange(24) % 8)
    meta = TaskMeta(kind="classification", classes=tuple("abcdefgh"))
    task = Task(name="tiny", train=classes, val=classes, test=classes, meta=meta)
    run = train(task, "sphere2vec_sphereC+", epochs=150, lr=1e-2, progress=False, **SMALL)  # type: ignore[arg-type]
    assert evaluate(run, task.test, intervals=False).metrics["top1"] == 1.0


def test_the_regression_preset_restores_sigmoid_and_raw_labels() -> None:
    task = regression_task(100)
    run = train(task, "sphere2vec_sphereC", preset="locbench2024", epochs=1, progress=False)
    model = run.model
    assert isinstance(model, Regressor)
    assert float(model.label_mean) == 0 and float(model.label_scale) == 1
    assert isinstance(model.location_activation, torch.nn.Sigmoid)
    assert run.config.fusion == "concat"


def test_prior_logits_are_nan_exactly_where_the_place_is_missing() -> None:
    model = LocationClassifier(location_encoder("xyz", 16, hidden_dim=16), 5).eval()
    lonlat = torch.tensor([[0.0, 0.0], [torch.nan, torch.nan], [10.0, torch.nan]])
    assert model(lonlat).isnan().all(1).tolist() == [False, True, True]
    assert model.log_prior(torch.zeros((2, 2))).exp().allclose(model.predict_proba(torch.zeros((2, 2))))


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    members = [
        LocationClassifier(location_encoder("xyz", 8, hidden_dim=8, generator=g), 3, generator=g).eval()
        for g in (torch.Generator().manual_seed(s) for s in (0, 1))
    ]
    x = places(10)
    expected = (members[0].predict_proba(x) + members[1].predict_proba(x)) / 2
    torch.testing.assert_close(Ensemble(list(members)).log_prior(x).exp(), expected)


def test_model_parts_that_contradict_each_other_are_refused() -> None:
    encoder = location_encoder("xyz", 8, hidden_dim=8)
    with pytest.raises(ValueError, match="takes one input"):
        Regressor(encoder, 4, fusion="none")
    with pytest.raises(ValueError, match="needs an encoder and image features"):
        Regressor(encoder, 0, fusion="concat")
    with pytest.raises(ValueError, match="concat, hadamard, none"):
        Regressor(encoder, 4, fusion="add")
    with pytest.raises(ValueError, match="image features of width 4"):
        Regressor(encoder, 4)(places(2))


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda e: LocationClassifier(e, 0), "num_classes"),
        (lambda e: LocationClassifier(e, 2.0), "num_classes"),
        (lambda e: Regressor(e, -1), "image_features"),
        (lambda e: Regressor(None, 3, fusion="none", embedding_dim=0), "embedding_dim"),
        (lambda e: Regressor(e, 3, head=(8, 0)), "head"),
        (lambda e: Regressor(e, 3, dropout=1.0), "dropout"),
        (lambda e: Regressor(e, 3, dropout=float("nan")), "dropout"),
        (lambda e: Regressor(e, 3, location_activation="relu"), "location_activation"),
        (lambda e: ScalarFeatures(1), "num_anchors"),
        (lambda e: mlp((2, 3), dropout=1.0), "dropout"),
        (lambda e: LateFusion(torch.nn.Identity(), 0, e, 2), "width"),
        (lambda e: LateFusion(torch.nn.Identity(), 2, e, 0), "num_classes"),
        (lambda e: LateFusion(torch.nn.Identity(), 2, e, 2, missing_rate=float("nan")), "missing_rate"),
        (lambda e: EqualEarthFourier(sigmas=(1.0, float("inf"))), "sigmas"),
        (lambda e: EqualEarthFourier(sigmas=()), "sigmas"),
        (lambda e: EqualEarthFourier(num_frequencies=0), "num_frequencies"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(build, name) -> None:
    with pytest.raises(ValueError, match=name):
        build(location_encoder("xyz", 4))


def test_scalar_features_differ_column_by_column() -> None:
    """Unlike the released layer, whose columns are all the same."""
    features = ScalarFeatures(16)
    values = torch.exp(torch.randn(500, generator=torch.Generator().manual_seed(0)))
    features.fit(values)
    assert int(torch.linalg.matrix_rank(features(values).double())) > 10


def test_the_recorded_table_is_complete_and_used() -> None:
    table = recorded_hyperparameters()
    assert len(table) == 97 and table["encoder"].nunique() == 14 and table["dataset"].nunique() == 7
    best = hyperparameters("fmow", "sphere2vec_sphereC")
    assert (best["lr"], best["num_scales"], best["min_radius"], best["hidden_dim"]) == (
        0.005,
        64,
        0.0005,
        512,
    )
    assert "cell_size" not in hyperparameters("fmow", "tile")  # it never reached the encoder
    assert hyperparameters("fmow", "sphere2vec_dfs", "locbench2024")["num_scales"] == 64
    assert hyperparameters("mosaiks_elevation", "space2vec_grid")["batch_size"] == 4096


def test_strata_put_well_known_places_where_they_belong() -> None:
    known = {
        (-98.0, 40.0): {"mid_latitudes", "north_america"},  # Kansas
        (178.0, -17.8): {"date_line", "tropics", "oceania"},  # Fiji
        (25.0, 71.2): {"polar", "europe"},  # North Cape
        (37.0, -1.3): {"tropics", "africa"},  # Nairobi
        (-60.0, -3.1): {"tropics", "south_america"},  # Manaus
        (116.4, 39.9): {"mid_latitudes", "asia"},  # Beijing
        (float("nan"), float("nan")): {"missing"},
    }
    masks = strata(torch.tensor(list(known)))
    for row, (place, expected) in enumerate(known.items()):
        assert {name for name, mask in masks.items() if mask[row]} == expected, place
    assert int(continents(torch.tensor([[float("nan"), 0.0]]))[0]) == -1


def test_grid_cells_know_date_line_poles_and_corners() -> None:
    lonlat = torch.tensor([[180.0, 5.0], [-180.0, 5.0], [0.0, 90.0], [-0.1, -90.0], [float("nan"), 0.0]])
    cells = grid_cells(lonlat, 10.0)
    assert cells[0] == cells[1] and cells[4] == -1
    assert cell_corner(int(cells[2])) == (0.0, 80.0)
    assert cell_corner(int(cells[3])) == (-10.0, -90.0)
    with pytest.raises(ValueError, match="divide 180"):
        grid_cells(lonlat, 7.0)


def test_dropout_keeps_the_mean_drops_its_share_and_does_nothing_in_evaluation() -> None:
    from tslab.encoders.networks import Dropout

    ones = torch.ones((400, 501))
    for p in (0.1, 0.5, 0.9):
        layer = Dropout(p).train()
        torch.manual_seed(0)
        out = layer(ones)
        assert float((out == 0).float().mean()) == pytest.approx(p, abs=0.005)
        assert float(out.mean()) == pytest.approx(1, abs=0.02)
        torch.manual_seed(0)
        assert torch.equal(layer(ones), out)
        assert torch.equal(layer.eval()(ones), ones)


def test_fusion_takes_modules_only() -> None:
    encoder = location_encoder("xyz", 4)
    with pytest.raises(TypeError, match="backbone"):
        LateFusion("resnet50", 4, encoder, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="encoder"):
        LateFusion(torch.nn.Identity(), 4, "xyz", 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prior"):
        PriorProduct(torch.nn.Identity(), encoder)  # type: ignore[arg-type]
