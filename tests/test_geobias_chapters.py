"""What the geo-bias chapters rest on: one neighbourhood in the open, and the map of cells with its record."""

import math

import numpy as np
import pytest
import torch

from tslab.geobias import (
    marked_ssi_loss,
    neighbor_graph,
    released_geobias,
    ssi,
    straight_through_marks,
    summary,
)
from tslab.released_files import has_released_results
from tslab_book.bias_map import (
    MIN_CENTERS,
    NUM_LAT,
    NUM_LON,
    PAIRS,
    RECORD,
    as_field,
    bias_map,
    centers_table,
    two_nulls,
)
from tslab_book.records import read_record
from tslab_book.ruler import deal, ruler_facts
from tslab_book.walkthrough import neighborhood, neighborhood_figure


def places(count: int = 60, *, lon: float = 2.0, lat: float = 48.0, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.tensor([lon, lat]) + torch.randn((count, 2), generator=draw, dtype=torch.float64) * 0.7


@pytest.mark.parametrize("marks", ["signed", "unmarked", "raw"])
@pytest.mark.parametrize("moments", ["exact", "published"])
@pytest.mark.parametrize("lat", [48.0, -89.3])
def test_the_open_neighborhood_has_the_score_of_the_package(marks, moments, lat):
    lonlat = places(lat=lat)
    if lat < -80:
        lonlat[:, 0] = torch.linspace(-180, 180, len(lonlat), dtype=torch.float64)
        lonlat[:, 1].clamp_(min=-90)
    hits = torch.rand(len(lonlat), generator=torch.Generator().manual_seed(1)) < 0.6
    result = {
        form: ssi(lonlat, hits, radius_km=80, marks=marks, moments=moments, form=form) for form in ("tail", "density")
    }
    for center in (0, 7, 31):
        state = neighborhood(lonlat, hits, center, radius_km=80, marks=marks, moments=moments)
        assert (state.n, state.m) == (int(result["tail"].n[center]), int(result["tail"].background[center]))
        for form, value in (("tail", state.tail), ("density", state.density)):
            assert value == pytest.approx(float(result[form].score[center]), rel=1e-9, nan_ok=True)
        assert state.statistic == pytest.approx(float(result["tail"].statistic[center]), rel=1e-9)
        own = ssi(lonlat, hits, radius_km=80, marks=marks, null="conditional")
        assert state.conditional == pytest.approx(float(own.score[center]), abs=1e-9)


def test_offsets_are_great_circle_kilometres_and_the_centre_is_their_origin():
    lonlat = torch.tensor([[10.0, 89.9], [10.0, 90.0], [-170.0, 89.9], [10.0, 89.0]], dtype=torch.float64)
    state = neighborhood(lonlat, torch.ones(4), 0, radius_km=150)
    away = {int(row): state.offset_km[i].tolist() for i, row in enumerate(state.rows)}
    tenth = math.radians(0.1) * 6371.0088
    assert away[0] == pytest.approx([0, 0], abs=1e-6)
    assert away[1] == pytest.approx([0, tenth], abs=1e-6)
    assert away[2] == pytest.approx([0, 2 * tenth], abs=1e-6)  # over the pole
    assert away[3] == pytest.approx([0, -9 * tenth], abs=1e-6)


def test_like_and_unlike_edges_change_sides_when_marks_are_flipped():
    lonlat = places()
    hits = torch.ones(len(lonlat), dtype=torch.bool)
    center = int((lonlat - lonlat.mean(0)).norm(dim=1).argmin())  # at the edge, samples see only background
    alike = neighborhood(lonlat, hits, center, radius_km=80)
    assert alike.unlike_edges == 0 < alike.like_edges
    flipped = hits.clone()
    flipped[center] = False
    one = neighborhood(lonlat, flipped, center, radius_km=80)
    assert one.like_edges + one.unlike_edges == alike.like_edges
    assert one.statistic < alike.statistic


def test_a_centre_without_a_location_is_refused():
    lonlat = places()
    lonlat[3] = math.nan
    with pytest.raises(ValueError, match="row 3 has no location"):
        neighborhood(lonlat, torch.ones(len(lonlat)), 3, radius_km=80)


def test_every_state_of_the_figure_can_be_reached_and_shows_its_own_numbers():
    lonlat = places()
    patterns = {"all right": torch.ones(60), "all but one": torch.arange(60) != 5}
    figure = neighborhood_figure(lonlat, patterns, 0, [20, 40, 60], active=1)
    assert [frame.name for frame in figure.frames] == ["0", "1", "2"]
    assert all(len(frame.data) == len(figure.data) for frame in figure.frames)
    for button in figure.layout.updatemenus[0].buttons:
        visible = button.args[0]["visible"]
        assert len(visible) == len(figure.data)
        texts = [
            trace.text[0] for trace, seen in zip(figure.frames[2].data, visible, strict=True) if seen and trace.text
        ]
        state = neighborhood(lonlat, patterns[button.label], 0, radius_km=60)
        assert len(texts) == 1
        assert f"n = {state.n}, " in texts[0]
        assert f"tail {state.tail:.2f}" in texts[0]
        assert f"conditional {state.conditional:.2f}" in texts[0]


def test_cells_count_every_centre_once_and_find_the_cold_region():
    generator = torch.Generator().manual_seed(0)
    lonlat = torch.rand((3000, 2), generator=generator, dtype=torch.float64) * torch.tensor([60.0, 60.0])
    bad = (lonlat < 20).all(1)
    hits = torch.rand(3000, generator=generator) < torch.where(bad, 0.3, 0.9)
    lonlat[5] = math.nan
    result = summary(lonlat, hits.double(), radius_km=300, num_resamples=20)
    cells = bias_map(result, hits.numpy(), min_centers=1)
    assert cells["centers"].sum() == 2999
    assert (cells["top1"] * cells["centers"]).sum() == pytest.approx(int(hits.sum()) - int(hits[5]))
    table = centers_table(result, hits.numpy())
    inside = ((table["lon"] < 20) & (table["lat"] < 20)).to_numpy()
    assert table["cold"][inside].mean() > 0.5
    assert table["cold"][~inside].mean() < 0.03
    assert not (table["cold"] & table["hot"]).any()
    field = as_field(cells, "centers")
    assert field.shape == (NUM_LAT, NUM_LON)
    assert np.nansum(field) == 2999


def test_all_hits_have_no_clusters():
    lonlat = places()
    result = summary(lonlat, torch.ones(60), radius_km=50, num_resamples=20)
    table = centers_table(result, np.ones(60))
    assert not table["hot"].any()
    assert not table["cold"].any()


def test_the_record_holds_cells_of_every_pair_and_agrees_with_its_totals():
    record = read_record(RECORD)
    cells, totals = record.data, record.about["totals"]
    assert {f"{d}/{e}" for d, e in PAIRS} == set(totals)
    for (dataset, encoder), part in cells.groupby(["dataset", "encoder"]):
        whole = totals[f"{dataset}/{encoder}"]
        assert part["centers"].min() >= MIN_CENTERS
        assert 0.9 * whole["centers"] < part["centers"].sum() <= whole["centers"]
        mean = np.average(part["top1"], weights=part["centers"])
        assert mean == pytest.approx(whole["top1"], abs=0.02)
        shares = ["top1", "significant", "hot", "cold", "observed_joint", "dealt_joint", "dealt_conditional"]
        assert part[shares].stack().between(0, 1).all()
        called = np.average(part["significant"], weights=part["centers"])
        assert called == pytest.approx(whole["observed_conditional"], abs=0.02)
        assert whole["significant"] == whole["observed_conditional"]


def test_of_dealt_released_hits_the_joint_null_calls_a_quarter_and_the_conditional_next_to_none():
    """The released hits without location, dealt to all images at random; five in a hundred have p of at most 0.05."""
    totals = read_record(RECORD).about["totals"]
    for dataset in ("yfcc", "inat2018", "fmow"):
        whole = totals[f"{dataset}/no_prior"]
        assert whole["dealt_joint"] > 0.25
        assert whole["dealt_joint_low"] > 0.15
        assert whole["dealt_conditional_high"] < 0.01
        assert 0.04 < whole["dealt_conditional_alone"] < 0.06
        assert whole["dealt_moran"] < 0.01
        assert 0.9 < whole["dealt_score"] < 1.05  # the mean of -log p is 1 where p is uniform
        assert whole["observed_conditional_alone"] > 1.3 * whole["dealt_conditional_alone"]


def test_a_model_without_geography_is_called_by_the_joint_null_only():
    draw = torch.Generator().manual_seed(0)
    towns = (torch.rand((20, 2), generator=draw, dtype=torch.float64) * 80).repeat_interleave(50, 0)
    lonlat = towns + torch.randn(towns.shape, generator=draw, dtype=torch.float64) * 0.1
    hits = (torch.rand(1000, generator=draw) < 0.75).double()
    lonlat[7] = math.nan
    graph = neighbor_graph(lonlat, radius_km=100)
    facts, maps = two_nulls(graph, hits, num_deals=3)
    assert facts["dealt_joint_low"] > 0.2 > 0.01 > facts["dealt_conditional_high"]
    assert facts["observed_joint"] > 0.2 > 0.01 > facts["observed_conditional"]
    assert float(maps["observed_joint"].double().sum()) == pytest.approx(999 * facts["observed_joint"])
    report = summary(graph, hits, num_resamples=20)
    assert report.significant == facts["observed_conditional"]
    cells = bias_map(report, hits.numpy(), more=maps, min_centers=1)
    assert np.average(cells["dealt_joint"], weights=cells["centers"]) > 0.2


def test_dealing_changes_the_places_of_hits_and_nothing_else():
    located = torch.arange(100) >= 10
    hits = (torch.arange(100) % 3 == 0).double()
    dealt = deal(hits, located, times=4)
    assert dealt.shape == (100, 4)
    assert torch.equal(dealt[:10], hits[:10, None].expand(-1, 4))
    assert (dealt.sum(0) == hits.sum()).all()
    assert len(torch.unique(dealt, dim=1).T) == 4
    models = torch.stack([hits, 1 - hits], 1)
    assert torch.equal(deal(models, located)[:, 0], deal(hits, located))
    assert (deal(models, located).sum(1) == 1).all()  # rows stay together


def test_the_ruler_calls_dealt_hits_by_chance_only_if_it_asks_about_the_model():
    draw = torch.Generator().manual_seed(3)
    lonlat = (torch.rand((12, 2), generator=draw, dtype=torch.float64) * 60).repeat_interleave(60, 0)
    lonlat = lonlat + torch.randn(lonlat.shape, generator=draw, dtype=torch.float64) * 0.3
    hits = (torch.rand((720, 8), generator=draw) < 0.7).double()
    facts = ruler_facts(lonlat, hits, [f"model {i}" for i in range(8)])
    assert facts["dealt_joint"].mean() > 0.3
    assert 0.02 < facts["dealt_conditional"].mean() < 0.08
    assert 0.6 < facts["conditional"].mean() < 1.1  # -log p of chance; a little less where arrangements are few


@pytest.mark.skipif(not has_released_results(None, ["yfcc"]), reason="the released results are not on this machine")
def test_the_record_is_what_the_released_results_give():
    from tslab_book.bias_map import released_map

    cells, whole = released_map("yfcc", "no_prior")
    record = read_record(RECORD)
    stored = record.data
    assert record.about["totals"]["yfcc/no_prior"] == pytest.approx(whole, rel=1e-6, abs=1e-9)
    part = stored[(stored["dataset"] == "yfcc") & (stored["encoder"] == "no_prior")].reset_index(drop=True)
    assert part["centers"].tolist() == cells["centers"].tolist()
    assert np.allclose(part["cold"], cells["cold"], atol=1e-3)


def test_a_released_pair_needs_a_known_outcome():
    if not has_released_results(None, ["yfcc"]):
        pytest.skip("the released results are not on this machine")
    with pytest.raises(ValueError, match="outcome"):
        released_geobias("yfcc", "no_prior", outcome="hit2")


def test_marks_of_a_loss_are_exactly_plus_and_minus_one_and_an_even_neighbourhood_has_no_gradient():
    """Rounding would make marks that are all hits look arranged, with a gradient of any size."""
    performance = torch.rand(400, generator=torch.Generator().manual_seed(0)).requires_grad_()
    marks = straight_through_marks(performance)
    assert set(marks.tolist()) == {-1.0, 1.0}
    graph = neighbor_graph(places(400), radius_km=80)
    marked_ssi_loss(graph, performance).backward()
    assert float(performance.grad.norm()) < 10
    sure = (0.6 + 0.3 * performance.detach()).requires_grad_()  # all hits, none of them certain
    loss = marked_ssi_loss(graph, sure)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (sure.grad == 0).all()
