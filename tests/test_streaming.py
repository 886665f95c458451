"""Encoding a table in pieces gives what encoding it at once gives, in bounded memory, and survives a stop."""

import numpy as np
import pandas as pd
import pytest
import torch

import tslab

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'tslab[geo]'")
pq = pytest.importorskip("pyarrow.parquet")

from tslab.streaming import encode_frame, encode_parquet  # noqa: E402


@pytest.fixture
def encoder():
    return tslab.location_encoder(
        "space2vec_grid", 5, num_scales=4, generator=torch.Generator().manual_seed(0)
    ).eval()


@pytest.fixture
def places():
    lonlat = tslab.sample_sphere(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lonlat[17] = torch.nan
    return lonlat


@pytest.fixture
def source(places, tmp_path):
    frame = pd.DataFrame({"id": np.arange(1000), "lon": places[:, 0], "lat": places[:, 1]})
    path = tmp_path / "places.parquet"
    frame.to_parquet(path, row_group_size=130, index=False)
    return path


def embeddings(path, column="embedding"):
    table = pq.read_table(path)
    values = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return table, torch.from_numpy(values.reshape(len(table), -1).copy())


@pytest.mark.parametrize(
    ("batch_rows", "part_rows"), [(64, 150), (1000, 1000), (7, 1001), (333, 10), (129, 130)]
)
def test_pieces_give_the_whole(source, places, encoder, tmp_path, batch_rows, part_rows):
    target = tmp_path / "out.parquet"
    report = encode_parquet(
        source, target, encoder, batch_rows=batch_rows, part_rows=part_rows, progress=False
    )
    table, values = embeddings(target)
    with torch.no_grad():
        assert torch.allclose(values, encoder(places).float(), atol=1e-6, equal_nan=True)
    assert table["id"].to_pylist() == list(range(1000))
    assert (report.rows, report.features, report.resumed_rows) == (1000, 5, 0)
    assert report.bytes == target.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "places.parquet"]


class Breaks(torch.nn.Module):
    """An encoder that stops working after some rows, as a machine that is switched off."""

    def __init__(self, encoder, after):
        super().__init__()
        self.encoder, self.left, self.seen = encoder, after, 0

    def forward(self, lonlat):
        self.seen += len(lonlat)
        if self.seen > self.left:
            raise RuntimeError("switched off")
        return self.encoder(lonlat)


def test_a_stopped_run_goes_on_where_it_was(source, places, encoder, tmp_path):
    target = tmp_path / "out.parquet"
    how = {"batch_rows": 50, "part_rows": 200, "progress": False, "fingerprint": "mine"}
    with pytest.raises(RuntimeError, match="switched off"):
        encode_parquet(source, target, Breaks(encoder, 730).eval(), **how)
    assert not target.exists()
    second = Breaks(encoder, 10_000).eval()
    report = encode_parquet(source, target, second, **how)
    assert report.resumed_rows == 600 and second.seen == 400
    with torch.no_grad():
        assert torch.allclose(embeddings(target)[1], encoder(places).float(), atol=1e-6, equal_nan=True)


def test_parts_of_another_encoder_are_not_taken_over(source, places, encoder, tmp_path):
    target = tmp_path / "out.parquet"
    how = {"batch_rows": 50, "part_rows": 200, "progress": False}
    with pytest.raises(RuntimeError, match="switched off"):
        encode_parquet(source, target, Breaks(encoder, 730).eval(), **how)
    with torch.no_grad():
        next(encoder.network.parameters()).mul_(2)
    report = encode_parquet(source, target, encoder, **how)
    assert report.resumed_rows == 0
    with torch.no_grad():
        assert torch.allclose(embeddings(target)[1], encoder(places).float(), atol=1e-6, equal_nan=True)


def test_an_old_result_stays_until_the_new_one_is_whole(source, encoder, tmp_path):
    target = tmp_path / "out.parquet"
    target.write_text("old")
    with pytest.raises(RuntimeError):
        encode_parquet(
            source, target, Breaks(encoder, 730).eval(), batch_rows=50, part_rows=200, progress=False
        )
    assert target.read_text() == "old"


def test_memory_holds_a_batch_not_the_table(source, encoder, tmp_path):
    sizes = []

    def watched(lonlat):
        sizes.append(len(lonlat))
        return encoder(lonlat)

    encode_parquet(source, tmp_path / "out.parquet", watched, batch_rows=64, part_rows=500, progress=False)
    assert max(sizes) <= 64 and sum(sizes) == 1000


def test_half_precision_keeps_three_digits(source, places, encoder, tmp_path):
    encode_parquet(source, tmp_path / "out.parquet", encoder, dtype="float16", keep=["id"], progress=False)
    table, values = embeddings(tmp_path / "out.parquet")
    assert table.column_names == ["id", "embedding"] and values.dtype == torch.float16
    with torch.no_grad():
        assert torch.allclose(values.float(), encoder(places).float(), rtol=1e-3, atol=1e-3, equal_nan=True)


def test_an_empty_table_stays_a_table(tmp_path, encoder):
    pd.DataFrame({"lon": np.zeros(0), "lat": np.zeros(0)}).to_parquet(tmp_path / "none.parquet")
    report = encode_parquet(tmp_path / "none.parquet", tmp_path / "out.parquet", encoder, progress=False)
    assert report.rows == 0 and report.features == 5
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_geoparquet_points_are_read(places, encoder, tmp_path):
    geopandas = pytest.importorskip(
        "geopandas", reason="geopandas is not installed: pip install 'tslab[geo]'"
    )
    known = places[~places.isnan().any(1)]
    points = geopandas.GeoDataFrame(
        {"id": range(len(known))}, geometry=geopandas.points_from_xy(*known.T.numpy()), crs="EPSG:4326"
    )
    points.to_parquet(tmp_path / "points.parquet")
    encode_parquet(
        tmp_path / "points.parquet",
        tmp_path / "out.parquet",
        encoder,
        geometry="geometry",
        batch_rows=100,
        progress=False,
    )
    table, values = embeddings(tmp_path / "out.parquet")
    assert table.column_names == ["id", "embedding"]
    with torch.no_grad():
        assert torch.allclose(values, encoder(known).float(), atol=1e-6)


def test_errors_say_what_to_do(source, encoder, tmp_path):
    with pytest.raises(KeyError, match=r"no column 'longitude'.* it has id, lon, lat"):
        encode_parquet(source, tmp_path / "out.parquet", encoder, lon="longitude", progress=False)
    with pytest.raises(FileNotFoundError, match="no Parquet file at"):
        encode_parquet(tmp_path / "nothing.parquet", tmp_path / "out.parquet", encoder, progress=False)
    with pytest.raises(ValueError, match="float8"):
        encode_parquet(source, tmp_path / "out.parquet", encoder, dtype="float8", progress=False)
    pd.DataFrame({"lon": [0.0] * 9 + [10.0], "lat": [0.0] * 9 + [95.0]}).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(tslab.CoordinateError, match=r"rows from 5 on: .*\[4\].*latitude 95"):
        encode_parquet(
            tmp_path / "bad.parquet", tmp_path / "out.parquet", encoder, batch_rows=5, progress=False
        )


def test_a_frame_keeps_its_index(places, encoder):
    frame = pd.DataFrame(places.numpy(), columns=["lon", "lat"], index=np.arange(1000) * 3)
    encoded = encode_frame(frame, encoder, batch_rows=77)
    with torch.no_grad():
        expected = encoder(places).float()
    assert encoded.index.equals(frame.index) and list(encoded) == ["e0", "e1", "e2", "e3", "e4"]
    assert torch.allclose(torch.from_numpy(encoded.to_numpy(copy=True)), expected, atol=1e-6, equal_nan=True)


def test_a_projected_geodataframe_is_brought_to_degrees(encoder):
    geopandas = pytest.importorskip(
        "geopandas", reason="geopandas is not installed: pip install 'tslab[geo]'"
    )
    lonlat = torch.tensor([[10.0, 50.0], [11.5, 48.25]], dtype=torch.float64)
    points = geopandas.GeoDataFrame(geometry=geopandas.points_from_xy(*lonlat.T.numpy()), crs="EPSG:4326")
    with torch.no_grad():
        expected = encoder(lonlat).float()
    found = torch.from_numpy(encode_frame(points.to_crs("EPSG:32632"), encoder).to_numpy())
    assert torch.allclose(found, expected, atol=1e-4)
    with pytest.raises(tslab.CoordinateError, match="no coordinate system"):
        encode_frame(points.set_crs(None, allow_override=True), encoder)
    with pytest.raises(tslab.CoordinateError, match="not a point"):
        encode_frame(points.set_geometry(points.to_crs("EPSG:32632").buffer(1)), encoder)


def test_dask_partitions_give_the_same(places, encoder):
    dd = pytest.importorskip("dask.dataframe", reason="dask is not installed: pip install 'tslab[sweep]'")
    frame = pd.DataFrame(places.numpy(), columns=["lon", "lat"])
    lazy = dd.from_pandas(frame, npartitions=4)
    encoded = lazy.map_partitions(encode_frame, encoder, meta=encode_frame(frame.iloc[:0], encoder))
    pd.testing.assert_frame_equal(encoded.compute(scheduler="sync"), encode_frame(frame, encoder))
