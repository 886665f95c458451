"""Geo-bias against golden numbers: the reference's formulas evaluated in float64, and published per-sample tables.

Two kinds of rows cannot be decided by any rule, because the reference's search tree decided them by rounding: ties
between coincident samples of different value, and ties between the centre and the rings around it. Golden rows carry
a flag for the first kind that is not complete; the tests below find both kinds themselves, as rows whose value
depends on the tie rule, and demand everything else to the last digit.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from tslab import geobias
from tslab.coords import great_circle_distance
from tslab.geobias import weights
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph
from tslab.released_files import DATASET_TOKENS, ENCODER_TOKENS, ReleasedResultsError
from tslab_book.walkthrough import background_grid

SETS = {
    "fmow_r0.05": ("fmow", 4, None),
    "yfcc_r100km": ("yfcc", 4, None),
    "mosaiks_elevation_r0.05": ("mosaiks_elevation_no_prior", 4, None),
    "mosaiks_elevation_r0.05_k8": ("mosaiks_elevation_no_prior", 8, None),
    "mosaiks_elevation_r100km": ("mosaiks_elevation_no_prior", 4, None),
    "mosaiks_elevation_r100km_density2e6": ("mosaiks_elevation_no_prior", 4, 2e6),
}
MARKS = {"unmarked": "unmarked", "marked_pm1": "signed", "marked_raw01": "raw"}
PUBLISHED = {"moments": "published", "form": "density", "overfull": True}


@pytest.fixture(scope="module")
def folder(golden_of_released: Path) -> Path:
    return golden_of_released / "geobias"


def points(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    data = np.load(folder / f"points_{name}.npz")
    lonlat = torch.tensor(np.stack([data["lon_deg"], data["lat_deg"]], 1))
    return lonlat, torch.tensor(data["hit1"].astype(np.float64))


def column(table: pd.DataFrame, name: str) -> Tensor:
    return torch.tensor(table[name].to_numpy(dtype=np.float64))


def given_graph(folder: Path, name: str, lonlat: Tensor, order: Tensor) -> NeighborGraph:
    """The golden neighbourhoods, with the samples in another order (and so another tie rule)."""
    table, data = pd.read_csv(folder / f"ssi_{name}.csv"), np.load(folder / f"ssi_{name}_neighbours.npz")
    centers, indptr = torch.tensor(table["center"].to_numpy()), torch.tensor(data["indptr"])
    indices = torch.tensor(data["indices"].astype(np.int64))
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order))
    return neighbor_graph(
        lonlat[order],
        radius_rad=float(table["radius"][0]),
        centers=position[centers],
        neighbors=(indptr, position[indices]),
    )


def close(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    return ((a - b).abs() <= tolerance) | (a.isnan() & b.isnan())


@pytest.mark.parametrize("name", SETS)
def test_rows_without_ties_equal_the_golden_rows(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, k, density = SETS[name]
    table = pd.read_csv(folder / f"ssi_{name}.csv")
    lonlat, hits = points(folder, source)
    results: dict[str, list[geobias.SSIResult]] = {mode: [] for mode in MARKS}
    orders = [
        torch.arange(len(hits)),
        hits.argsort(stable=True),
        (-hits).argsort(stable=True),
    ]  # misses, hits first
    before, after = 1 - 1e-9, 1 + 1e-9  # samples before background points, or after them
    rules = [(orders[0], before)] + [(order, factor) for order in orders[1:] for factor in (before, after)]
    for order, factor in rules:
        monkeypatch.setattr(weights, "SAMPLE_FIRST", factor)
        graph = given_graph(folder, name, lonlat, order)
        for mode, marks in MARKS.items():
            results[mode].append(
                geobias.ssi(graph, hits[order], k=k, density=density or "auto", marks=marks, **PUBLISHED)
            )
    for mode in MARKS:
        first = results[mode][0]
        assert first.n.tolist() == table["n"].tolist()
        assert first.background.tolist() == table["m_bg"].tolist()
        assert close(first.mean, column(table, f"{mode}_mu"), 1e-9).all()
        assert close(first.sigma, column(table, f"{mode}_sigma"), 1e-9).all()
        decided = torch.ones(len(table), dtype=torch.bool)
        for other in results[mode][1:]:
            decided &= close(first.statistic, other.statistic, 1e-12 * 400)
        decided &= torch.tensor(table[f"{mode}_tie_free"].to_numpy(dtype=bool))
        matches = close(first.statistic, column(table, f"{mode}_I"), 1e-9)
        scores = close(first.score, column(table, f"{mode}_nll"), 1e-6)
        head = geobias.surprisal(first.statistic, first.mean, first.sigma, "tail_plus_one")
        tails = close(head, column(table, f"{mode}_head"), 1e-6)
        assert decided.double().mean() > (0.2 if source == "fmow" else 0.75)
        assert matches[decided].all() and scores[decided].all() and tails[decided].all(), (
            mode, decided.sum(), (~matches[decided]).sum()
        )  # fmt: skip


def test_neighbourhoods_found_are_the_golden_ones_except_for_ties_at_the_cut(folder: Path) -> None:
    for name in ("yfcc_r100km", "mosaiks_elevation_r0.05", "mosaiks_elevation_r100km"):
        lonlat, _ = points(folder, SETS[name][0])
        table, data = pd.read_csv(folder / f"ssi_{name}.csv"), np.load(folder / f"ssi_{name}_neighbours.npz")
        graph = neighbor_graph(
            lonlat, radius_rad=float(table["radius"][0]), centers=torch.tensor(table["center"].to_numpy())
        )
        differ = 0
        for i in range(len(table)):
            theirs = set(data["indices"][data["indptr"][i] : data["indptr"][i + 1]].tolist())
            ours = set(graph.rows_of(i).tolist())
            assert len(ours) == len(theirs)
            differ += ours != theirs
            if ours != theirs:
                center = lonlat[int(table["center"][i])]
                km = great_circle_distance(center, lonlat[sorted(ours ^ theirs)])
                farthest = great_circle_distance(center, lonlat[sorted(ours)]).max()
                assert torch.allclose(km, farthest, atol=1e-6)
        assert differ <= 0.03 * len(table)


def test_published_eurosat_scores(folder: Path) -> None:
    data, table = np.load(folder / "points_eurosat.npz"), pd.read_csv(folder / "ssi_eurosat.csv")
    lonlat = torch.tensor(np.degrees(np.stack([data["lon_rad"], data["lat_rad"]], 1)))
    models = ["croma_finetune", "croma_linear", "gpt4o", "satmae_finetune", "satmae_linear"]
    hits = torch.tensor(np.stack([data[f"hit1_{model}"] for model in models], 1).astype(np.float64))
    agree, worst = [], 0.0
    for radius, rows in table.groupby("radius"):
        graph = neighbor_graph(lonlat, radius_rad=float(radius), centers=torch.tensor(rows["center"].to_numpy()))
        unmarked = geobias.ssi(graph, None, marks="unmarked", **PUBLISHED).score
        marked = geobias.ssi(graph, hits, marks="signed", **PUBLISHED).score
        for name, score in [("unmarked", unmarked), *((m, marked[:, i]) for i, m in enumerate(models))]:
            published = column(rows, f"{name}_published")
            agree.append((score - published).abs() < 1e-6)
            worst = max(worst, float((score - published).abs().max()))
    assert float(torch.cat(agree).double().mean()) >= 0.985
    assert worst < 0.6  # the rest are ties of the centre with its rings


def test_moments_table(golden: Path) -> None:
    for row in pd.read_csv(golden / "moments.csv").itertuples():
        values = torch.tensor([float(x) for x in row.values.split()], dtype=torch.float64)
        counts = torch.tensor([int(x) for x in str(row.counts).split()])
        mean, sigma = geobias.published_moments(values, counts)
        assert float(mean) == pytest.approx(row.mean, abs=1e-9)
        if math.isnan(row.sigma):
            assert math.isnan(float(sigma))
        else:
            assert float(sigma) == pytest.approx(row.sigma, abs=1e-9)


def test_background_counts(golden: Path) -> None:
    for row in pd.read_csv(golden / "background_counts.csv").itertuples():
        density = geobias.background_density(row.n, row.radius)
        assert float(density) == row.density
        assert len(background_grid([0.0, 0.0], row.radius, n=row.n)) == row.m


def test_background_grids(golden: Path) -> None:
    table = pd.read_csv(golden / "background_grid.csv")
    for (_, lat, lon, radius, n), rows in table.groupby(["case", "center_lat", "center_lon", "radius", "n_presence"]):
        center = torch.tensor([math.degrees(lon), math.degrees(lat)], dtype=torch.float64)
        ours = torch.deg2rad(background_grid(center, radius, n=int(n)))
        theirs = torch.stack([column(rows, "bg_lon"), column(rows, "bg_lat")], 1)
        assert len(ours) == len(theirs)
        assert float((vectors(ours) - vectors(theirs)).abs().max()) < 1e-12


def vectors(lonlat_rad: Tensor) -> Tensor:
    lon, lat = lonlat_rad.unbind(-1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)


@pytest.mark.parametrize("name", ["fmow", "yfcc", "mosaiks_elevation_no_prior"])
@pytest.mark.parametrize(
    ("partition", "short"), [("scale_grid", "sc"), ("distance_lag", "dst"), ("direction_sector", "dr")]
)
def test_relative_information(folder: Path, name: str, partition: str, short: str) -> None:
    table = pd.read_csv(folder / f"sri_{name}.csv")
    lonlat, hits = points(folder, name)
    size = table[f"{short}_param"][0]
    arguments = {
        "radius_rad": float(table["radius"][0]),
        "partition": partition,
        "size": int(size) if short == "dr" else float(size),
        "min_samples": int(table["threshold"][0]),
        "centers": torch.tensor(table["center"].to_numpy()),
    }
    published = geobias.sri(lonlat, hits, preset="pygbs2025", **arguments)
    assert published.n.tolist() == table["n_neigh"].tolist()
    assert torch.allclose(published.weight, column(table, "weight"), atol=1e-12)
    same = close(published.score, column(table, f"{short}_sri"), 1e-9)
    if short == "dr":
        # coincident samples lie in a sector that rounding chose; the corrected azimuth has no such choice
        assert float(same.double().mean()) > 0.3
        correct = geobias.sri(lonlat, hits, histogram="published", **arguments)
        assert close(correct.score, column(table, "dr_sri_correct_azimuth"), 1e-9).all()
        assert correct.parts.tolist() == table["dr_cells_correct"].tolist()
        return
    assert same.all()
    assert published.parts.tolist() == table[f"{short}_cells_kept"].tolist()
    fixed = geobias.sri(lonlat, hits, **arguments)
    assert close(fixed.score, column(table, f"{short}_sri_fixed_bins"), 1e-9).all()
    if f"{short}_published" in table:
        assert close(published.score, column(table, f"{short}_published"), 1e-9).all()


@pytest.mark.mirror
def test_one_call_maps_a_released_pair(mirror: Path) -> None:
    result = geobias.released_geobias("yfcc", "rbf", root=mirror)
    table = result.to_pandas()
    assert len(table) == 17_798
    assert table["score"].notna().all() and result.interval[0] < result.mean < result.interval[1]
    regression = geobias.released_geobias("mosaiks_elevation", "xyz", root=mirror)
    assert regression.num_scored == len(regression.scores.score)


@pytest.mark.slow
@pytest.mark.mirror
@pytest.mark.parametrize("dataset", DATASET_TOKENS)
def test_one_call_maps_every_released_dataset(mirror: Path, dataset: str) -> None:
    if dataset == "inat2017":
        with pytest.raises(ReleasedResultsError, match="no coordinates"):
            geobias.released_geobias(dataset, "no_prior", root=mirror)
        return
    for encoder in ENCODER_TOKENS:
        try:
            result = geobias.released_geobias(dataset, encoder, root=mirror)
        except ReleasedResultsError as error:
            assert not isinstance(error, FileNotFoundError)  # some are released empty
            continue
        table = result.to_pandas()
        assert table["score"].notna().sum() == result.num_scored > 0
        assert set(table.columns) >= {"lon", "lat", "score", "q", "significant", "getis_ord"}
        return
    pytest.fail(f"no released result of {dataset} could be read")
