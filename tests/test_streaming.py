"""Encoding a table in pieces gives what encoding it at once gives, in bounded memory, and survives a stop."""

import os

import numpy as np
import pandas as pd
import pytest
import torch

import tslab
from tslab._files import DamagedFileError, FolderInUseError
from tslab._parquet import identity_of

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'tslab[geo]'")
pq = pytest.importorskip("pyarrow.parquet")

from tslab.streaming import encode_frame, encode_parquet  # noqa: E402


@pytest.fixture
def encoder():
    return tslab.location_encoder("space2vec_grid", 5, num_scales=4, generator=torch.Generator().manual_seed(0)).eval()


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


@pytest.mark.parametrize(("batch_rows", "part_rows"), [(64, 150), (1000, 1000), (7, 1001), (333, 10), (129, 130)])
def test_pieces_give_the_whole(source, places, encoder, tmp_path, batch_rows, part_rows):
    target = tmp_path / "out.parquet"
    report = encode_parquet(source, target, encoder, batch_rows=batch_rows, part_rows=part_rows, progress=False)
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
        encode_parquet(source, target, Breaks(encoder, 730).eval(), batch_rows=50, part_rows=200, progress=False)
    assert target.read_text() == "old"


def test_numbers_of_numpy_are_counts(source, places, encoder, tmp_path):
    how = {"batch_rows": np.int64(100), "part_rows": np.int64(300), "progress": False}
    assert encode_parquet(source, tmp_path / "out.parquet", encoder, **how).rows == 1000
    frame = pd.DataFrame(places.numpy(), columns=["lon", "lat"])
    assert len(encode_frame(frame, encoder, batch_rows=np.int64(100))) == 1000


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
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed: pip install 'tslab[geo]'")
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
        encode_parquet(tmp_path / "bad.parquet", tmp_path / "out.parquet", encoder, batch_rows=5, progress=False)


def test_a_frame_keeps_its_index(places, encoder):
    frame = pd.DataFrame(places.numpy(), columns=["lon", "lat"], index=np.arange(1000) * 3)
    encoded = encode_frame(frame, encoder, batch_rows=77)
    with torch.no_grad():
        expected = encoder(places).float()
    assert encoded.index.equals(frame.index) and list(encoded) == ["e0", "e1", "e2", "e3", "e4"]
    assert torch.allclose(torch.from_numpy(encoded.to_numpy(copy=True)), expected, atol=1e-6, equal_nan=True)


def test_a_projected_geodataframe_is_brought_to_degrees(encoder):
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed: pip install 'tslab[geo]'")
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


# What a killed run leaves, and who may go on with it


def stopped(source, target, encoder, **how):
    """A run that is switched off after three of five parts; returns the arguments of the next."""
    how = {"batch_rows": 50, "part_rows": 200, "progress": False, "fingerprint": "mine"} | how
    with pytest.raises(RuntimeError, match="switched off"):
        encode_parquet(source, target, Breaks(encoder, 730).eval(), **how)
    return how, target.with_name(".out.parquet.parts")


def right(target, encoder, places):
    table, values = embeddings(target)
    with torch.no_grad():
        return table["id"].to_pylist() == list(range(1000)) and torch.allclose(
            values, encoder(places).float(), atol=1e-6, equal_nan=True
        )


def test_what_a_killed_run_leaves_is_not_taken_for_a_part(source, places, encoder, tmp_path):
    how, parts = stopped(source, tmp_path / "out.parquet", encoder)
    whole = (parts / "000000.parquet").read_bytes()
    (parts / ".000003-abcdefgh.parquet").write_bytes(whole)  # killed inside a part
    (parts / ".000004-abcdefgh.parquet").write_bytes(whole[:100])
    (parts / ".joined-abcdefgh.parquet").write_bytes(whole)  # killed before the last rename
    report = encode_parquet(source, tmp_path / "out.parquet", encoder, **how)
    assert (report.rows, report.resumed_rows) == (1000, 600)
    assert right(tmp_path / "out.parquet", encoder, places) and not parts.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "short", "plan", "no object"])
def test_what_is_damaged_is_computed_anew(source, places, encoder, tmp_path, damage):
    how, parts = stopped(source, tmp_path / "out.parquet", encoder)
    part, content = parts / "000001.parquet", bytearray((parts / "000001.parquet").read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    if damage in ("plan", "no object"):
        (parts / "plan.json").write_text("{" if damage == "plan" else "[]")
    elif damage == "short":
        pq.write_table(pq.read_table(part).slice(1), part)
    else:
        part.write_bytes(content[: {"cut": 900, "empty": 0}.get(damage, len(content))])
    report = encode_parquet(source, tmp_path / "out.parquet", encoder, **how)
    assert report.resumed_rows == (0 if damage in ("plan", "no object") else 200)
    assert right(tmp_path / "out.parquet", encoder, places)


def test_two_jobs_do_not_write_one_target(source, encoder, tmp_path):
    def twice(lonlat):
        return torch.zeros(len(lonlat), 1 + len(encode_frame(pd.DataFrame({"lon": [0.0], "lat": [0.0]}), again)))

    def again(lonlat):
        encode_parquet(source, tmp_path / "out.parquet", encoder, progress=False)

    with pytest.raises(FolderInUseError, match=r"out\.parquet\.parts is being written by another process"):
        encode_parquet(source, tmp_path / "out.parquet", twice, progress=False)


def test_a_source_that_changes_meanwhile_is_noticed(source, encoder, tmp_path):
    def changes(lonlat):
        os.utime(source, ns=(1, 1))
        return encoder(lonlat)

    with pytest.raises(ValueError, match="was changed while it was read"):
        encode_parquet(source, tmp_path / "out.parquet", changes, progress=False)
    assert not (tmp_path / "out.parquet").exists()


class Waves(torch.nn.Module):
    def __init__(self, factor=1.0, constant=1.0):
        super().__init__()
        self.factor = factor
        self.register_buffer("constant", torch.tensor(constant), persistent=False)

    def forward(self, lonlat):
        return lonlat * self.factor * self.constant


def test_a_module_is_known_by_everything_that_decides_its_output():
    assert identity_of(Waves()) == identity_of(Waves())
    different = [
        Waves(2.0),
        Waves(constant=2.0),
        Waves().double(),
        torch.nn.Linear(2, 2),
        Waves(torch.ones(2)),
    ]
    assert len({identity_of(module) for module in (Waves(), *different)}) == 6
    encoder = tslab.location_encoder("sphere2vec_sphereC", 4, num_scales=3)
    before = identity_of(encoder)
    assert before is not None and identity_of(torch.compile(encoder)) == before
    assert identity_of(encoder.forward) not in (None, before)
    encoder.position_encoder.frequencies += 1
    assert identity_of(encoder) != before


def test_functions_closures_and_hooks_have_no_identity():
    hooked = Waves()
    hooked.register_forward_hook(lambda module, args, out: out + 1)
    for encoder in (embeddings, lambda x: x, Waves(lambda x: x), Waves(object()), hooked, print):
        assert identity_of(encoder) is None


def test_a_function_starts_anew_and_with_a_fingerprint_goes_on(source, tmp_path):
    def job(factor, left):
        def encode(lonlat):
            left.append(0)
            if len(left) == 5:
                raise RuntimeError("switched off")
            return lonlat * factor

        return encode

    for fingerprint, resumed in ((None, 0), ("mine", 750)):
        how = {"batch_rows": 250, "part_rows": 250, "progress": False, "fingerprint": fingerprint}
        with pytest.raises(RuntimeError, match="switched off"):
            encode_parquet(source, tmp_path / "out.parquet", job(1, [0]), **how)
        report = encode_parquet(source, tmp_path / "out.parquet", job(2, [0] * 9), **how)
        assert report.resumed_rows == resumed


class Part(torch.nn.Module):
    """Frozen: the backbone stays in evaluation mode while the rest is trained."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = torch.nn.Dropout(0.5).eval(), torch.nn.Linear(2, 3).double()

    def forward(self, lonlat):
        assert not self.head.training
        return self.head(lonlat)


def test_every_module_gets_its_own_mode_back():
    module = Part()
    encode_frame(pd.DataFrame({"lon": [1.0], "lat": [2.0]}), module)
    assert module.training and module.head.training and not module.backbone.training


# Sources and arguments


def test_a_folder_is_one_table_in_the_order_of_its_names(tmp_path, encoder):
    frame = pd.DataFrame({"id": range(26), "lon": np.linspace(-100, 100, 26), "lat": 5.0})
    for i in range(13):
        year = tmp_path / "places" / f"year={2020 + i // 4}"
        year.mkdir(parents=True, exist_ok=True)
        frame.iloc[2 * i : 2 * i + 2].to_parquet(year / f"part.{i}.parquet", index=False)
    encode_parquet(tmp_path / "places", tmp_path / "out.parquet", encoder, batch_rows=3, part_rows=5, progress=False)
    table, values = embeddings(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == list(range(26))
    assert table["year"].to_pylist() == [2020 + i // 8 for i in range(26)]
    lonlat = torch.from_numpy(frame[["lon", "lat"]].to_numpy(copy=True))
    with torch.no_grad():
        assert torch.allclose(values, encoder(lonlat).float(), atol=1e-6)


def test_the_types_of_kept_columns_stay(tmp_path, encoder):
    kinds = {
        "time": pa.array([0, 1], pa.timestamp("us", "Europe/Berlin")),
        "kind": pa.array(["oak", None]).dictionary_encode(),
        "first": pa.array([[1.0, 2.0], [3.0, None]], pa.list_(pa.float32(), 2)),
    }
    table = pa.table({"lon": [1.0, 2.0], "lat": [1.0, 2.0], **kinds})
    pq.write_table(table, tmp_path / "in.parquet")
    encode_parquet(tmp_path / "in.parquet", tmp_path / "out.parquet", encoder, batch_rows=1, progress=False)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == [*table.column_names, "embedding"]
    for name in kinds:
        assert found[name].type.equals(table[name].type) and found[name].to_pylist() == table[name].to_pylist()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"batch_rows": 0}, "batch_rows"),
        ({"part_rows": 1.5}, "part_rows"),
        ({"column": "id"}, "has a column 'id' already"),
        ({"column": ""}, "column a name"),
        ({"keep": "id"}, "keep is a list"),
        ({"keep": ["id", "id"]}, "more than once"),
        ({"dtype": "f4"}, "float16"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(source, encoder, tmp_path, how, message):
    with pytest.raises(ValueError, match=message):
        encode_parquet(source, tmp_path / "new" / "out.parquet", encoder, progress=False, **how)
    assert not (tmp_path / "new").exists()


def test_the_source_is_never_the_target(source, encoder, tmp_path):
    before = source.read_bytes()
    with pytest.raises(ValueError, match="the source itself"):
        encode_parquet(source, source, encoder, progress=False)
    with pytest.raises(IsADirectoryError, match="give the file to write"):
        encode_parquet(source, tmp_path, encoder, progress=False)
    with pytest.raises(ValueError, match="lies in the source folder"):
        encode_parquet(tmp_path, tmp_path / "out.parquet", encoder, progress=False)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda x: x[:, 0], r"got \(\d+,\)"),
        (lambda x: x.numpy(), "got ndarray"),
        (lambda x: x[1:], "for n places"),
        (lambda x: x.repeat(1, len(x)), "schema|width"),
        (lambda x: x * 1e6, "float16 ends at 65,504"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(source, tmp_path, encode, message):
    with pytest.raises(ValueError, match=message):
        encode_parquet(source, tmp_path / "out.parquet", encode, batch_rows=999, dtype="float16", progress=False)


def test_a_source_that_is_damaged_is_named(source, encoder, tmp_path):
    content = bytearray(source.read_bytes())
    content[: len(content) // 3] = bytes(len(content) // 3)
    (tmp_path / "in.parquet").write_bytes(content)
    for name in ("in.parquet", "junk.parquet"):
        (tmp_path / "junk.parquet").write_bytes(b"PAR1 and no more PAR1")
        with pytest.raises(DamagedFileError, match=name):
            encode_parquet(tmp_path / name, tmp_path / "out.parquet", encoder, progress=False)


def test_a_key_is_no_encoder(source, places, tmp_path):
    with pytest.raises(TypeError, match="location_encoder"):
        encode_parquet(source, tmp_path / "out.parquet", "xyz", progress=False)
    with pytest.raises(TypeError, match="location_encoder"):
        encode_frame(pd.DataFrame({"lon": [1.0], "lat": [2.0]}), "xyz")
    assert not list(tmp_path.glob(".out*"))


def test_a_column_of_some_files_only_is_not_dropped_without_a_word(tmp_path, encoder):
    folder = tmp_path / "many"
    folder.mkdir()
    first = pd.DataFrame({"lon": [1.0], "lat": [2.0], "who": ["a"]})
    first.to_parquet(folder / "1.parquet")
    first.assign(when=2020).to_parquet(folder / "2.parquet")
    with pytest.raises(ValueError, match="have column when"):
        encode_parquet(folder, tmp_path / "out.parquet", encoder, progress=False)
    report = encode_parquet(folder, tmp_path / "out.parquet", encoder, keep=["who"], progress=False)
    assert report.rows == 2
