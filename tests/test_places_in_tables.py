"""A place is the same place in whatever way a table holds it: degrees, metres, well-known binary, GeoArrow, a frame."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import tslab

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'tslab[geo]'")
pq = pytest.importorskip("pyarrow.parquet")
geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed: pip install 'tslab[geo]'")
shapely = pytest.importorskip("shapely")

from tslab.streaming import encode_frame, encode_parquet  # noqa: E402


def missing_lists_are_read(folder):
    """Whether this pyarrow reads a fixed-width list that is null; 18 does not."""
    table = pa.table({"a": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))})
    pq.write_table(table, folder / "probe.parquet")
    try:
        return pq.read_table(folder / "probe.parquet").num_rows == 2
    except pa.ArrowException:
        return False


LONLAT = [(10.4, 51.2), (11.5, 48.25), (9.0, 54.0)]


def points(crs=4326, kinds=None):
    geometry = geopandas.points_from_xy(*zip(*LONLAT, strict=True)) if kinds is None else kinds
    return geopandas.GeoDataFrame({"id": range(len(geometry))}, geometry=list(geometry), crs=4326).to_crs(crs)


def encoded(path, tmp_path, **how):
    how = {"geometry": "geometry", "progress": False} | how
    encode_parquet(path, tmp_path / "out.parquet", tslab.position_encoder("xyz"), **how)
    values = pq.read_table(tmp_path / "out.parquet")["embedding"].to_pylist()
    return torch.tensor(values, dtype=torch.float64)


def km_from_truth(xyz, rows=slice(None)):
    truth = torch.tensor(LONLAT, dtype=torch.float64)[rows]
    return tslab.great_circle_distance(tslab.lonlat_from_unit_vectors(xyz), truth)


@pytest.mark.parametrize("encoding", ["WKB", "geoarrow"])
@pytest.mark.parametrize("crs", [4326, 4258, 32632, 3857, "EPSG:4807", "OGC:CRS84"])
def test_the_coordinate_system_of_the_file_is_respected(tmp_path, encoding, crs):
    points(crs).to_parquet(tmp_path / "in.parquet", geometry_encoding=encoding)
    assert float(km_from_truth(encoded(tmp_path / "in.parquet", tmp_path, batch_rows=2)).max()) < 0.1


def test_frame_and_file_give_the_same(tmp_path):
    frame = points(32632)
    frame.to_parquet(tmp_path / "in.parquet")
    in_memory = encode_frame(frame, tslab.position_encoder("xyz")).to_numpy()
    assert np.array_equal(in_memory, encoded(tmp_path / "in.parquet", tmp_path).numpy().astype(np.float32))


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64(), 2), pa.list_(pa.float64(), 3), pa.struct({"x": pa.float64(), "y": pa.float64()})],
)
def test_native_points_are_read_and_null_is_missing(tmp_path, kind):
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
    if width and not missing_lists_are_read(tmp_path):
        pytest.skip(f"pyarrow {pa.__version__} does not read a null in a column of fixed-width lists")
    rows = [[*place, 100.0][:width] if width else dict(zip("xy", place, strict=True)) for place in LONLAT]
    pq.write_table(pa.table({"geometry": pa.array([None, *rows, None], kind)}), tmp_path / "in.parquet")
    for batch_rows in (1, 2, 100):
        xyz = encoded(tmp_path / "in.parquet", tmp_path, batch_rows=batch_rows)
        assert xyz[[0, 4]].isnan().all() and float(km_from_truth(xyz[1:4]).max()) < 0.1


@pytest.mark.parametrize("encoding", ["WKB", "geoarrow"])
def test_empty_and_missing_points_are_missing_places(tmp_path, encoding):
    frame = points(kinds=[shapely.Point(), None, shapely.Point(*LONLAT[0])])
    frame.to_parquet(tmp_path / "in.parquet", geometry_encoding=encoding)
    xyz = encoded(tmp_path / "in.parquet", tmp_path)
    assert xyz[:2].isnan().all() and float(km_from_truth(xyz[2:], slice(1)).max()) < 0.1
    assert encode_frame(frame, tslab.position_encoder("xyz")).isna().all(axis=1).tolist() == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("encoding", ["WKB", "geoarrow"])
@pytest.mark.parametrize(
    "shape", [shapely.MultiPoint([(10, 50)]), shapely.LineString([(0, 0), (1, 1)]), shapely.box(0, 0, 1, 1)]
)
def test_what_is_not_a_point_is_refused(tmp_path, shape, encoding):
    frame = points(kinds=[shape])
    frame.to_parquet(tmp_path / "in.parquet", geometry_encoding=encoding)
    with pytest.raises(tslab.CoordinateError, match=r"not (a )?point"):
        encoded(tmp_path / "in.parquet", tmp_path)
    with pytest.raises(tslab.CoordinateError, match="not a point"):
        encode_frame(frame, tslab.position_encoder("xyz"))


def with_geo(**about):
    binary = pa.array([shapely.to_wkb(shapely.Point(*place)) for place in LONLAT])
    geo = json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": about}})
    return pa.table({"geometry": binary}).replace_schema_metadata({"geo": geo})


def test_geoparquet_without_a_system_is_in_degrees_and_null_is_unknown(tmp_path):
    pq.write_table(with_geo(encoding="WKB"), tmp_path / "in.parquet")
    assert float(km_from_truth(encoded(tmp_path / "in.parquet", tmp_path)).max()) < 0.1
    pq.write_table(with_geo(encoding="WKB", crs=None), tmp_path / "in.parquet")
    with pytest.raises(tslab.CoordinateError, match="no coordinate system"):
        encoded(tmp_path / "in.parquet", tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (with_geo(crs="nonsense"), "nonsense cannot be brought to degrees"),
        (with_geo(crs={"a": 1}), "cannot be brought to degrees"),
        (with_geo().replace_schema_metadata({"geo": "{"}), "geo metadata of the file cannot be read"),
        (with_geo().replace_schema_metadata({"geo": '{"columns": 3}'}), "no table of columns"),
        (pa.table({"geometry": ["POINT (1 2)"]}), "holds string, not points"),
        (
            pa.table({"geometry": [shapely.to_wkb(shapely.Point(1, 2)), b"xx"]}),
            "row 1: .* no well-known binary",
        ),
        (
            pa.table({"geometry": [shapely.to_wkb(shapely.set_srid(shapely.Point(1, 2), 3857), include_srid=True)]}),
            "marked as EPSG:3857",
        ),
        (pa.table({"geometry": [shapely.to_wkb(shapely.Point(200, 2))]}), "longitude 200 is outside"),
    ],
)
def test_geometry_that_cannot_be_read_says_why(tmp_path, table, message):
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(tslab.CoordinateError, match=message):
        encoded(tmp_path / "in.parquet", tmp_path)


def test_a_point_outside_its_system_is_named(tmp_path):
    points(kinds=[shapely.Point(1, 2), shapely.Point(1e12, 1e12)]).set_crs(32632, allow_override=True).to_parquet(
        tmp_path / "in.parquet"
    )
    with pytest.raises(tslab.CoordinateError, match=r"row 1: .*UTM zone 32N"):
        encoded(tmp_path / "in.parquet", tmp_path)


def test_without_pyproj_the_error_names_the_extra(tmp_path, monkeypatch):
    points(25833).to_parquet(tmp_path / "in.parquet")
    monkeypatch.setitem(sys.modules, "pyproj", None)
    with pytest.raises(ImportError, match=r"tslab\[geo\]"):
        encoded(tmp_path / "in.parquet", tmp_path)


@pytest.mark.parametrize("encoding", ["WKB", "geoarrow"])
def test_a_kept_geometry_is_still_geoparquet(tmp_path, encoding):
    frame = points(32632)
    frame.to_parquet(tmp_path / "in.parquet", geometry_encoding=encoding, write_covering_bbox=encoding == "WKB")
    encoded(tmp_path / "in.parquet", tmp_path, keep=["geometry", "id"])
    back = geopandas.read_parquet(tmp_path / "out.parquet")
    assert back.crs == frame.crs and back.geometry.geom_equals(frame.geometry).all()
    assert not (pq.read_schema(tmp_path / "out.parquet").metadata or {}).get(b"geo", b"").count(b"covering")


def test_a_missing_column_of_geoparquet_says_which_there_is(tmp_path):
    points().to_parquet(tmp_path / "in.parquet")
    with pytest.raises(KeyError, match="pass geometry='geometry'"):
        encoded(tmp_path / "in.parquet", tmp_path, geometry=None)


# Columns of degrees


def test_frames_with_a_column_called_geometry_use_their_degrees():
    frame = pd.DataFrame({"lon": [10.4], "lat": [51.2], "geometry": [b"x"]})
    xyz = torch.from_numpy(encode_frame(frame, tslab.position_encoder("xyz")).to_numpy(copy=True)).double()
    assert float(km_from_truth(xyz, slice(1))) < 0.1


@pytest.mark.parametrize(
    "column",
    [
        pd.array([1, None], "Int64"),
        pd.array([1.0, None], "float32[pyarrow]"),
        np.array([1, None], object),
        np.array([1, np.nan], np.float16),
    ],
)
def test_numbers_of_every_kind_are_degrees_and_gaps_are_missing(column, tmp_path):
    frame = pd.DataFrame({"lon": column, "lat": [2.0, 3.0]})
    xyz = tslab.position_encoder("xyz")
    found = encode_frame(frame, xyz).to_numpy()
    expected = xyz(torch.tensor([[1.0, 2.0]], dtype=torch.float64)).numpy()
    assert np.isnan(found[1]).all() and np.allclose(found[0], expected)
    frame.to_parquet(tmp_path / "in.parquet")
    values = encoded(tmp_path / "in.parquet", tmp_path, geometry=None).numpy()
    assert np.isnan(values[1]).all() and np.allclose(values[0], expected)


@pytest.mark.parametrize("column", [["10"], [True], [pd.Timestamp("2020-01-01")], [b"x"]])
def test_what_is_no_number_is_no_degree(column, tmp_path):
    frame = pd.DataFrame({"lon": column, "lat": [2.0]})
    with pytest.raises(tslab.CoordinateError, match=r"column 'lon' holds .* not degrees"):
        encode_frame(frame, tslab.position_encoder("xyz"))
    frame.to_parquet(tmp_path / "in.parquet")
    with pytest.raises(tslab.CoordinateError, match=r"column 'lon' holds .* not degrees"):
        encoded(tmp_path / "in.parquet", tmp_path, geometry=None)


def test_frames_say_what_they_lack():
    xyz = tslab.position_encoder("xyz")
    with pytest.raises(KeyError, match="no column 'lon' in the frame; it has x"):
        encode_frame(pd.DataFrame({"x": [1.0]}), xyz)
    with pytest.raises(KeyError, match="2 columns of the frame are called 'lon'"):
        encode_frame(pd.DataFrame([[1.0, 2.0, 3.0]], columns=["lon", "lat", "lon"]), xyz)
    for other in (pd.Series([1.0]), np.zeros((2, 2))):
        with pytest.raises(TypeError, match="takes a pandas DataFrame"):
            encode_frame(other, xyz)
    with pytest.raises(ValueError, match="batch_rows"):
        encode_frame(pd.DataFrame({"lon": [1.0], "lat": [1.0]}), xyz, batch_rows=0)
