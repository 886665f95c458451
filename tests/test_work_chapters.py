"""What the chapters on using tslab stand on: the synthetic species, the encoder guide and its record, exported files,
models around a classifier; and the chapters themselves, run without the released files."""

import math
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from torch import nn

import tslab
from tslab.diagnostics import resolution_km
from tslab.exporting import check_places, export_onnx, export_program
from tslab.models import LateFusion, LocationClassifier, PriorProduct
from tslab_book import encoder_guide
from tslab_book.presence import (
    REGION,
    SyntheticSpecies,
    auc,
    background,
    fit_presence_only,
    in_region,
    region_grid,
    region_maps,
    threshold_at_omission,
)
from tslab_book.records import read_record

BOOK = Path(__file__).parents[1] / "book" / "work"


# The synthetic species


def test_the_species_lives_on_the_land_of_its_region_only():
    species = SyntheticSpecies()
    elsewhere = torch.tensor([[10.0, 50.0], [-90.0, -30.0], [-35.0, 5.0], [-60.0, 40.0]])
    assert (species.probability(elsewhere) == 0).all() and (species.effort(elsewhere) == 0).all()
    places, there = species.survey(500)
    p = species.probability(places)
    assert in_region(places).all() and ((p > 0) & (p < 1)).all()
    assert abs(float(there.double().mean() - p.mean())) < 4 * float((p * (1 - p)).mean() / 500) ** 0.5


def test_reports_follow_probability_times_effort():
    """The mean of any function over reports is its mean over the land, weighted by probability times effort."""
    species = SyntheticSpecies()
    reports = species.presences(4000, seed=5)
    grid, land = region_grid(0.5)
    weight = species.probability(grid[land]) * species.effort(grid[land])
    weight = weight * torch.cos(torch.deg2rad(grid[land][:, 1].double()))
    for column in (0, 1):
        expected = float((grid[land][:, column].double() * weight).sum() / weight.sum())
        spread = float(reports[:, column].double().std())
        assert abs(float(reports[:, column].double().mean()) - expected) < 5 * spread / 4000**0.5 + 0.1


def test_more_people_look_in_the_cities():
    species = SyntheticSpecies()
    land = background("land", 2000, species, generator=torch.Generator().manual_seed(0))
    observed = background("observers", 2000, species, generator=torch.Generator().manual_seed(0))
    sphere = background("sphere", 2000, species, generator=torch.Generator().manual_seed(0))
    assert in_region(land).all() and in_region(observed).all() and in_region(sphere).double().mean() < 0.1
    assert species.effort(observed).mean() > 1.5 * species.effort(land).mean()
    with pytest.raises(ValueError, match="sphere, land, observers"):
        background("moon", 5, species, generator=torch.Generator())


def test_auc_is_the_share_of_pairs_in_order():
    generator = torch.Generator().manual_seed(0)
    score = torch.randint(0, 6, (60,), generator=generator).double()  # many ties
    positive = torch.rand(60, generator=generator) < 0.4
    pairs = score[positive][:, None] - score[~positive][None]
    assert auc(score, positive) == pytest.approx(float((pairs > 0).double().mean() + (pairs == 0).double().mean() / 2))
    assert auc(-score, positive) == pytest.approx(1 - auc(score, positive))
    assert math.isnan(auc(score, torch.ones(60, dtype=torch.bool)))


def test_the_threshold_leaves_out_what_it_says():
    score = torch.arange(101.0)
    assert threshold_at_omission(score, 0.1) == pytest.approx(10)
    assert threshold_at_omission(score, 0.0) == 0
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        threshold_at_omission(score, 1.0)


def test_a_model_ranks_the_survey_and_repeats_itself():
    species = SyntheticSpecies()
    reports = species.presences(400)
    absent = background("observers", 800, species, generator=torch.Generator().manual_seed(1))
    models = [
        fit_presence_only(reports, absent, "sphere2vec_sphereC+", epochs=60, num_scales=8, min_radius=0.08)
        for _ in range(2)
    ]
    places, there = species.survey(1000, seed=2)
    with torch.no_grad():
        first, second = (model(places)[:, 0] for model in models)
    assert torch.equal(first, second)
    assert 0.75 < auc(first, there) < auc(species.probability(places), there)


def test_maps_show_land_only():
    grid, land = region_grid(2.0)
    values = np.linspace(0, 1, int(land.sum()))
    figure = region_maps(values, [values, 1 - values], ["a", "b"], titles=("x", "y"), bar="z", step_deg=2.0)
    z = np.asarray(figure.data[0].z)
    assert (z == -1).sum() == (~land).sum() and z.max() == 100
    west, east, south, north = REGION
    assert grid[:, 0].min() > west and grid[:, 0].max() < east and grid[:, 1].min() > south and grid[:, 1].max() < north
    assert len(figure.frames) == 2 == len(figure.layout.sliders[0].steps)


# The encoder guide


def test_the_record_is_complete():
    guide = encoder_guide.read_guide()
    keys = {*encoder_guide.GUIDE_ENCODERS, encoder_guide.NEIGHBOURS}
    sizes = guide.groupby(["world", "n", "zone", "seed"])["encoder"].agg(set)
    assert len(sizes) == (4 * 3 + 1) * len(encoder_guide.PLACES) * encoder_guide.SEEDS
    assert (sizes == keys).all()


@pytest.mark.parametrize("world", ["smooth", "region"])
def test_the_record_is_what_is_measured(world):
    wide = pd.read_csv(encoder_guide.RECORD)
    stored = wide[(wide["world"] == world) & (wide["n"] == 300) & (wide["seed"] == 1)].set_index("encoder")
    again = pd.DataFrame(encoder_guide.measure(world, 300, 1, keys=("xyz", "wrap"))).set_index("encoder")
    for key in ("xyz", "wrap", encoder_guide.NEIGHBOURS):
        assert again.loc[key, "everywhere"] == pytest.approx(stored.loc[key, "everywhere"], rel=0.05)


def test_fields_have_the_spread_that_errors_are_measured_in():
    places = tslab.sample_sphere(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for world in ("smooth", "detailed"):
        spreads = [float(encoder_guide.WORLDS[world].field(seed)(places).square().mean().sqrt()) for seed in range(10)]
        assert np.mean(spreads) == pytest.approx(1, abs=0.15)
    assert set(encoder_guide.WORLDS["borders"].field(0)(places).unique().tolist()) == {-1.0, 1.0}


def test_harmonics_write_waves_as_sums_but_patches_lie_outside_every_span():
    assert encoder_guide.span("detailed", "siren_sh", 500) > 0.98
    assert encoder_guide.span("smooth", "xyz", 500) < 0.5
    for key in ("siren_sh", "sphere2vec_dfs", "rbf"):
        assert encoder_guide.span("patches", key, 500) < 0.9


def test_patches_have_spread_one_and_jump():
    places = tslab.sample_sphere(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    field = encoder_guide.WORLDS["patches"].field(0)
    assert float(field(places).std()) == pytest.approx(1, abs=0.03) and abs(float(field(places).mean())) < 0.03
    line = torch.stack([torch.linspace(-180, 180, 36_001, dtype=torch.float64), torch.zeros(36_001)], dim=1)
    steps = field(line).diff().abs()
    assert float(steps.max()) > 100 * float(steps.median())


def test_places_of_a_region_are_uniform_within_its_radius():
    world = encoder_guide.WORLDS["region"]
    places = world.places(4000, torch.Generator().manual_seed(0))
    km = tslab.great_circle_distance(places, torch.tensor([encoder_guide.CENTER], dtype=torch.float64))
    assert float(km.max()) <= 1000.001
    assert float((km < 1000 / 2**0.5).double().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("key", ["sphere2vec_sphereC+", "rff", "siren_sh"])
def test_a_resolved_encoder_resolves(key):
    how = encoder_guide.resolved_at(key, 1000)
    assert resolution_km(encoder_guide.guide_encoder(key, **how), n=64) <= 1000
    name, values = encoder_guide.KNOBS[key]
    coarser = values[list(np.isclose(values, how[name])).index(True) - 1]
    coarser = int(coarser) if isinstance(coarser, int) else float(coarser)
    assert resolution_km(encoder_guide.guide_encoder(key, **{name: coarser}), n=64) > 1000


def test_some_encoders_have_no_scale_and_some_end():
    assert encoder_guide.resolved_at("xyz", 10) == {}
    assert encoder_guide.resolved_at("siren_sh", 10) is None
    assert read_record(encoder_guide.FACTS).data["encoders"]["siren_sh"]["scales"]["10"] is None


def test_summary_knows_the_best_and_what_cannot_be_told_from_it():
    field = (0.0, 0.3, 0.1, 0.2, 0.15)  # how hard each of five fields is, for all encoders alike
    errors = {
        "best": [1 + d for d in field],
        "same": [1 + d + e for d, e in zip(field, (0.03, -0.02, 0.01, -0.03, 0.02), strict=True)],
        "worse": [2 + d + e for d, e in zip(field, (0.02, -0.03, 0.01, 0.03, -0.01), strict=True)],
    }
    rows = [
        {"world": "w", "n": 1, "zone": "z", "seed": s, "encoder": key, "error": error, "scale_km": 1.0}
        for key, values in errors.items()
        for s, error in enumerate(values)
    ]
    summary = encoder_guide.summarise(pd.DataFrame(rows)).set_index("encoder")
    assert summary["as_good"].to_dict() == {"best": True, "same": True, "worse": False}
    assert summary.loc["best", "behind"] == pytest.approx(0, abs=0.01)


def test_harmonics_reach_300_km_beyond_the_degrees_of_the_study():
    degrees = encoder_guide.KNOBS["siren_sh"][1]
    finest = resolution_km(tslab.position_encoder("siren_sh", degree=degrees[-1]))
    assert finest > 300 > resolution_km(tslab.position_encoder("siren_sh", degree=32))


def test_the_zoo_begins_a_region_with_the_best_encoder_of_the_study():
    summary = encoder_guide.summarise(encoder_guide.read_guide())
    region = summary[(summary["world"] == "region") & (summary["n"] == 3000)]
    best = region.loc[region["error"].idxmin(), "encoder"]
    zoo = (encoder_guide.RESULTS.parent / "encoders" / "zoo.md").read_text(encoding="utf-8")
    assert f'("One country or region", "{best}"' in zoo


def test_nearest_neighbours_repeat_the_labels_they_know():
    places = tslab.sample_sphere(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.arange(50, dtype=torch.float64)
    for k in (1, 3):
        assert torch.allclose(encoder_guide.nearest_neighbours(places, label, k)(places), label, atol=1e-3)


# Exported files


@pytest.fixture
def prior():
    encoder = tslab.location_encoder(
        "space2vec_grid", 8, num_scales=4, hidden_dim=16, generator=torch.Generator().manual_seed(0)
    )
    return LocationClassifier(encoder, 5, generator=torch.Generator().manual_seed(1)).eval()


def printed(code, folder):
    """What a process of its own prints that runs ``code`` in ``folder``."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_a_file_runs_without_tslab(prior, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'tslab[onnx]'")
    report = export_onnx(prior, tmp_path / "prior.onnx", output="logits", metadata={"classes": ["a", "b"]})
    assert report.features == 5 and report.bytes == (tmp_path / "prior.onnx").stat().st_size
    assert report.relative_error < 1e-5
    np.save(tmp_path / "places.npy", check_places().numpy())
    code = (
        "import sys, numpy as np, onnxruntime\n"
        "session = onnxruntime.InferenceSession('prior.onnx')\n"
        "np.save('out.npy', session.run(['logits'], {'lonlat': np.load('places.npy')})[0])\n"
        "print(session.get_modelmeta().custom_metadata_map['classes'], 'tslab' in sys.modules)"
    )
    assert printed(code, tmp_path) == '["a", "b"] False'
    with torch.no_grad():
        expected = prior(check_places()).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exported_program_runs_without_tslab(prior, tmp_path, dtype):
    report = export_program(prior, tmp_path / "prior.pt2", dtype=dtype)
    assert report.bytes == (tmp_path / "prior.pt2").stat().st_size and report.max_error < 1e-5
    torch.save(check_places(dtype), tmp_path / "places.pt")
    code = (
        "import sys, torch\n"
        "out = torch.export.load('prior.pt2').module()(torch.load('places.pt'))\n"
        "torch.save(out.detach(), 'out.pt'); print('tslab' in sys.modules)"
    )
    assert printed(code, tmp_path) == "False"
    with torch.no_grad():
        expected = prior(check_places(dtype))
    assert torch.allclose(torch.load(tmp_path / "out.pt"), expected, atol=1e-5, equal_nan=True)


class Moody(nn.Module):
    """Traced once it is one function, called later another."""

    def forward(self, lonlat):
        return lonlat * (2.0 if torch.compiler.is_compiling() else 1.0)


def test_a_file_that_differs_is_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'tslab[onnx]'")
    for export, name in ((export_onnx, "moody.onnx"), (export_program, "moody.pt2")):
        with pytest.raises(ValueError, match="differs from the module"):
            export(Moody(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# Models around a classifier


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    lonlat = tslab.sample_sphere(6, generator=generator)
    lonlat[2] = torch.nan
    return torch.randn((6, 4), generator=generator), lonlat


def test_the_product_is_the_product_and_the_image_where_there_is_no_place(prior, inputs):
    image, lonlat = inputs
    classifier = nn.Linear(4, 5)
    with torch.no_grad():
        score = PriorProduct(classifier, prior)(image, lonlat).exp()
        p_image = classifier(image).softmax(1)
        here = tslab.has_location(lonlat)
        assert torch.allclose(score[here], p_image[here] * prior.predict_proba(lonlat[here]), atol=1e-6)
        assert torch.allclose(score[~here], p_image[~here], atol=1e-6)
    with pytest.raises(ValueError, match="3 classes and the prior 5"):
        PriorProduct(nn.Linear(4, 3), prior)(image, lonlat)


def test_missing_places_leave_no_nan_in_gradients(prior, inputs):
    image, lonlat = inputs
    product = PriorProduct(nn.Linear(4, 5), prior)
    fused = LateFusion(nn.Linear(4, 3), 3, prior.encoder, 5, missing_rate=0.5)
    for model in (product, fused):
        model(image, lonlat).square().sum().backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_late_fusion_answers_missing_places_with_one_vector(prior, inputs):
    image, lonlat = inputs
    model = LateFusion(nn.Linear(4, 3), 3, prior.encoder, 5).eval()
    with torch.no_grad():
        same_image = image[:1].expand(6, 4)
        out = model(same_image, lonlat.index_fill(0, torch.tensor([4]), torch.nan))
        assert torch.allclose(out[2], out[4]) and not torch.allclose(out[0], out[1])
        assert torch.equal(model(image, lonlat), model(image, lonlat))  # nothing is hidden in evaluation


def test_training_hides_the_share_of_places(prior):
    model = LateFusion(nn.Linear(4, 3), 3, prior.encoder, 5, missing_rate=0.3)
    seen = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 3:]))
    torch.manual_seed(0)
    model(torch.zeros(2000, 4), tslab.sample_sphere(2000, generator=torch.Generator().manual_seed(0)))
    hidden = (seen[0] == model.missing).all(1).double().mean()
    assert float(hidden) == pytest.approx(0.3, abs=0.04)


def test_a_frozen_backbone_stays_in_evaluation_mode(prior):
    backbone = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert LateFusion(backbone, 3, prior.encoder, 5).train().backbone.training
    model = LateFusion(backbone.requires_grad_(False), 3, prior.encoder, 5).train()
    assert model.training and model.head.training and not model.backbone.training
    before = backbone[1].running_mean.clone()
    model(torch.randn(8, 4), tslab.sample_sphere(8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(backbone[1].running_mean, before)


# The chapters


CHAPTERS = {
    "choosing": {},
    "species_distribution": {"repeats": 1},
    "add_location": {"seeds": 1, "num_test": 1024},
    "at_scale": {"num_rows": 20_000},
    "export": {"epochs": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_runs_and_says_nothing_on_stderr(name, tmp_path, monkeypatch):
    monkeypatch.delenv("TSLAB_MIRROR", raising=False)
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source, executed = tmp_path / f"{name}.ipynb", tmp_path / f"{name}-executed.ipynb"
    nbformat.write(jupytext.read(BOOK / f"{name}.md"), source)
    notebook = papermill.execute_notebook(
        str(source), str(executed), parameters=CHAPTERS[name], progress_bar=False, kernel_name="python3"
    )
    said = [o["text"] for cell in notebook.cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    assert said == []
