"""The figures of the encoder chapters: what they show is the measured thing, and they stay small."""

import base64
import json

import numpy as np
import plotly
import pytest
import torch

import tslab
from tslab import diagnostics, plot
from tslab.plot import Curve
from tslab.plot.style import with_missing
from tslab.published import CLASSIFICATION_DATASETS
from tslab_book import encoder_pages

XYZ = tslab.position_encoder("xyz")


def decoded(values):
    """Bytes of a heatmap, whether plotly keeps them as an array or as base64."""
    if isinstance(values, dict):
        raw = np.frombuffer(base64.b64decode(values["bdata"]), np.dtype(values["dtype"]))
        return raw.reshape([int(n) for n in str(values.get("shape", raw.size)).split(",")])
    return np.asarray(values)


def test_cells_of_the_grid_have_equal_area():
    lon, sin_lat, places = plot.equal_area_grid(24, 12)
    assert np.allclose(np.diff(sin_lat), 2 / 12) and np.allclose(np.diff(lon), 15)
    assert torch.allclose(places[:24, 1], places[0, 1]) and places[0, 1] < places[-1, 1]


def test_a_map_keeps_its_values_to_a_byte_and_shows_missing_ones_apart():
    field = np.linspace(-1, 1, 24 * 12).reshape(12, 24)
    field[3, 4] = np.nan
    figure = plot.map_slider([field], ["one"])
    shown = decoded(figure.data[0].z)
    assert shown[3, 4] == -128
    present = ~np.isnan(field)
    assert np.abs(shown[present] / 127 - field[present]).max() <= 0.5 / 127 + 1e-9
    assert figure.data[0].colorscale[0][1] == plot.MISSING_COLOR


def test_the_zero_of_a_diverging_map_is_the_middle_of_its_colours():
    scale = with_missing(plot.DIVERGING_SCALE)
    zero = (0 + 128) / 255
    stops = [(float(stop), color) for stop, color in scale]
    nearest = min(stops, key=lambda stop: abs(stop[0] - zero))
    assert nearest[1] == plot.DIVERGING_SCALE[len(plot.DIVERGING_SCALE) // 2][1]


def test_a_slider_has_a_step_and_a_frame_for_each_field():
    figure = plot.feature_maps(XYZ, [0, 1, 2], ["x", "y", "z"])
    steps = figure.layout.sliders[0].steps
    assert [step.label for step in steps] == ["x", "y", "z"]
    assert [frame.name for frame in figure.frames] == [step.args[0][0] for step in steps]


def test_kernel_maps_are_brightest_at_the_marked_place():
    place = (30.0, 45.0)
    sharp = tslab.position_encoder("nerf", num_scales=4)  # a byte does not resolve the flat top of xyz
    figure = plot.similarity_maps(sharp, [place], ["here"])
    lon, sin_lat, _ = plot.equal_area_grid()
    row, column = np.unravel_index(decoded(figure.data[0].z).argmax(), (60, 120))
    assert abs(lon[column] - place[0]) < 3
    assert abs(np.rad2deg(np.arcsin(sin_lat[row])) - place[1]) < 3


def test_edges_of_xyz_are_symmetric_and_flat():
    figure = plot.edges(XYZ, color="#000000")
    assert np.allclose(decoded(figure.data[2].y), 1)


def test_a_globe_slider_changes_the_colours_only():
    _, _, places = plot.globe_grid(10)
    fields = XYZ(places).reshape(18, 36, 3).unbind(-1)
    figure = plot.globe_slider(fields, ["x", "y", "z"])
    shapes = {np.shape(decoded(frame.data[0].surfacecolor)) for frame in figure.frames}
    assert shapes == {np.shape(decoded(figure.data[0].surfacecolor))}
    north = decoded(figure.frames[2].data[0].surfacecolor)[-1]
    assert np.all(north > 120)  # z is near 1 on the northernmost row


def test_the_report_card_says_which_encoder_is_spherical():
    card = encoder_pages.report_card(diagnostics.diagnose(XYZ), 3)
    assert card.count("yes") == 3
    card = encoder_pages.report_card(
        diagnostics.diagnose(tslab.position_encoder("sphere2vec_sphereC+", num_scales=8)), 48
    )
    assert card.count("| no |") == 3


def test_published_gains_are_differences_of_published_numbers():
    gains = encoder_pages.published_gains()
    assert list(gains.columns) == list(CLASSIFICATION_DATASETS)
    assert len(gains) == len(tslab.ENCODERS)
    assert gains.loc["sphere2vec_sphereC+", "birdsnap_ebird"] == pytest.approx(80.90 - 70.07)
    figure = encoder_pages.published_dots(["xyz", "nerf"])
    assert [trace.name for trace in figure.data] == ["other encoders", "xyz", "NeRF"]
    assert "rank 1)" in encoder_pages.published_sentence("sphere2vec_sphereC+")


def test_curves_keep_their_order_through_the_frames():
    frames = [[Curve("a", [0, 1], [0, k]), Curve("b", [0, 1], [k, 0])] for k in (1, 2)]
    figure = plot.curve_slider(frames, ["1", "2"], x={"title": "x"}, y={"title": "y"}, active=1)
    assert [trace.name for trace in figure.data] == ["a", "b"]
    assert decoded(figure.data[0].y).tolist() == [0, 2]
    assert decoded(figure.frames[0].data[0].y).tolist() == [0, 1]


@pytest.mark.skipif(int(plotly.__version__.split(".")[0]) < 6, reason="plotly 5 writes numbers as text")
def test_figures_weigh_kilobytes():
    figure = plot.feature_maps(
        tslab.position_encoder("nerf", num_scales=4), list(range(20)), [str(i) for i in range(20)]
    )
    assert len(json.dumps(figure.to_plotly_json(), default=str)) < 1e6 and len(figure.to_json()) < 300_000


def test_sets_of_different_sizes_are_refused_because_old_curves_would_stay():
    one = [Curve("a", [0, 1], [0, 1])]
    with pytest.raises(ValueError, match="as many curves"):
        plot.curve_slider([one, one * 2], ["1", "2"], x={}, y={})


FIELD = np.zeros((4, 8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.map_slider([], []), "nothing to show"),
        (lambda: plot.map_slider([FIELD, FIELD], ["a"]), "labels must name each of 2 steps"),
        (lambda: plot.map_slider([FIELD, FIELD[:2]], ["a", "b"]), "all of one shape"),
        (lambda: plot.map_slider([np.zeros(7)], [""]), "twice as wide as high, got 7"),
        (lambda: plot.map_slider([FIELD], [""], active=1), "active"),
        (lambda: plot.map_slider([FIELD], [""], limits=(1.0, 0.0)), "limits"),
        (lambda: plot.map_slider([FIELD], [""], points=[]), "points must have one entry"),
        (lambda: plot.globe_slider([FIELD[:3]], [""]), "globe_grid"),
        (lambda: plot.globe_slider([], []), "nothing to show"),
        (lambda: plot.curve_slider([], [], x={}, y={}), "as many curves"),
        (
            lambda: plot.curve_slider([[Curve("c", [0, 1], [0])]], [""], x={}, y={}),
            "curve 'c' has 2 values",
        ),
        (lambda: plot.equal_area_grid(0, 5), "n_lon"),
        (lambda: plot.globe_grid(7), "step_deg must divide 180"),
        (lambda: plot.feature_maps(tslab.position_encoder("xyz"), [3], ["z"]), "columns"),
        (lambda: encoder_pages.published_gains("r2"), "metric 'r2' is not known"),
        (lambda: encoder_pages.published_dots("sphereC"), "encoder 'sphereC' is not known"),
        (lambda: encoder_pages.published_sentence("gpt4v"), "encoder 'gpt4v' is not known"),
    ],
)
def test_what_cannot_be_drawn_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_field_without_values_is_a_grey_map(value):
    empty = np.full((4, 8), value)
    for figure in (plot.map_slider([empty], [""]), plot.map_slider([empty], [""], diverging=False)):
        assert set(np.unique(decoded(figure.data[0].z))) <= {-128, 127}
