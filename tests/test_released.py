"""Reading and fetching released results: traps on synthetic files, facts on the real ones.

The synthetic files below have the layout of the released ones and made-up numbers.
"""

import errno
import hashlib
import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pytest
import requests

from tslab.released import load_released_results
from tslab.released_files import (
    DATASET_TOKENS,
    ENCODER_TOKENS,
    DamagedReleasedFileError,
    EmptyFileError,
    NotReleasedError,
    ReleasedFile,
    ReleasedFilesMissingError,
    ReleasedResultsError,
    has_released_results,
    released_files,
    released_root,
    result_path,
)
from tslab_book.fetching import (
    SOURCES,
    FetchError,
    Source,
    fetch_released,
    fetch_second_source,
    verify_released,
)

N = 200


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A synthetic copy of the repository with a small birdsnap, and no other place to read from."""
    monkeypatch.delenv("TSLAB_MIRROR", raising=False)
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("TSLAB_OWN_RESULTS", "1")  # made-up numbers cannot have the released checksums
    for folder in ("classification", "regression"):
        (tmp_path / "repo" / "eval_results" / folder).mkdir(parents=True)
    image, with_location, lonlat = synthetic_classification()
    write(tmp_path / "repo", "birdsnap_orig_meta_test_wrap_ffn", with_location, lonlat)
    write(tmp_path / "repo", "birdsnap_orig_meta_test_no_prior", image, None)
    sines = np.sin(np.pi * lonlat / [180, 90]).astype("float32")
    write(tmp_path / "repo", "birdsnap_orig_meta_test_wrap", with_location, sines)
    return tmp_path / "repo"


def synthetic_classification():
    """True-class probability and rank, without and with location; coordinates, a third of them missing."""
    rng = np.random.default_rng(0)
    lonlat = rng.uniform([-180, -90], [180, 90], (N, 2)).astype("float32").astype("float64")
    lonlat[rng.random(N) < 1 / 3] = np.nan
    probability = rng.random(N)
    located = ~np.isnan(lonlat[:, 0])
    better = np.where(located, probability * rng.uniform(0.8, 1, N), probability)
    rank = rng.integers(1, 6, N)
    return (probability, rank), (better, rank), lonlat


def write(root, stem, values, lonlat):
    probability, rank = values
    table = pd.DataFrame({"true_class_prob": probability, "reciprocal_rank": 1 / rank})
    table["hit@1"] = (rank == 1).astype(float)
    table["hit@3"] = (rank <= 3).astype(float)
    if lonlat is not None:
        table.insert(0, "lon", lonlat[:, 0])
        table.insert(1, "lat", lonlat[:, 1])
    table.to_csv(root / "eval_results" / "classification" / f"eval_{stem}.csv")


# --- reading ------------------------------------------------------------


def test_a_regular_file_is_read_as_it_is(root):
    _, (probability, rank), lonlat = synthetic_classification()
    table = load_released_results("birdsnap", "wrap_ffn", root)
    assert list(table.columns) == ["lon", "lat", "true_class_prob", "reciprocal_rank", "hit1", "hit3"]
    np.testing.assert_array_equal(table[["lon", "lat"]], lonlat)
    np.testing.assert_allclose(table["true_class_prob"], probability)
    assert table["hit1"].dtype == bool and (table["hit1"] == (rank == 1)).all()
    assert "not the checksummed release file" in table.attrs["notes"][0]  # these numbers are made up
    assert table.attrs["n"] == N and table.attrs["n_located"] == int((~np.isnan(lonlat[:, 0])).sum())


@pytest.mark.parametrize("encoder", ["no_prior", "wrap"])
def test_missing_or_sine_coordinates_come_from_a_sibling_by_row(root, encoder):
    lonlat = synthetic_classification()[2]
    table = load_released_results("birdsnap", encoder, root)
    np.testing.assert_array_equal(table[["lon", "lat"]], lonlat)
    assert "by row from eval_birdsnap_orig_meta_test_wrap_ffn.csv" in table.attrs["notes"][0]


def test_without_a_sibling_coordinates_are_missing_and_it_is_said(root):
    for name in root.glob("eval_results/classification/*_wrap*.csv"):
        name.unlink()
    table = load_released_results("birdsnap", "no_prior", root)
    assert table[["lon", "lat"]].isna().all(axis=None)
    assert table.attrs["n_located"] == 0 and "No coordinates" in table.attrs["notes"][0]


def test_shuffled_siblings_are_refused(root):
    _, with_location, lonlat = synthetic_classification()
    order = np.random.default_rng(1).permutation(N)
    write(root, "birdsnap_orig_meta_test_wrap_ffn", tuple(v[order] for v in with_location), lonlat[order])
    with pytest.raises(ReleasedResultsError, match="rows are not aligned"):
        load_released_results("birdsnap", "no_prior", root)
    with pytest.raises(ReleasedResultsError, match="sine features do not belong"):
        load_released_results("birdsnap", "wrap", root)
    everywhere = np.nan_to_num(lonlat)  # no row without location to compare: the correlation has to notice
    write(root, "birdsnap_orig_meta_test_wrap_ffn", tuple(v[order] for v in with_location), everywhere)
    with pytest.raises(ReleasedResultsError, match="same order"):
        load_released_results("birdsnap", "no_prior", root)


def test_siblings_of_different_length_are_refused(root):
    image, _, _ = synthetic_classification()
    write(root, "birdsnap_orig_meta_test_no_prior", tuple(v[:-1] for v in image), None)
    with pytest.raises(ReleasedResultsError, match="199 rows but its sibling"):
        load_released_results("birdsnap", "no_prior", root)


def test_an_empty_file_is_not_released(root):
    path = root / "eval_results" / "classification" / "eval_fmow__val_spherical_harmonics.csv"
    path.write_text("\n")
    with pytest.raises(EmptyFileError, match="is empty in the release"):
        load_released_results("fmow", "siren_sh", root)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.assign(**{"hit@1": 1.0}), "contradict each other"),
        (lambda t: t.assign(true_class_prob=2.0), "contradict each other"),
        (lambda t: t.drop(columns="hit@3"), "no columns hit@3"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: t.iloc[1:], "rows are missing or moved"),
        (lambda t: t.assign(lon=np.where(t["lon"].notna(), 200.0, np.nan)), "beyond"),
        (lambda t: t.assign(lon=t["lon"] / 180, lat=t["lat"] / 90), "sine features"),
        (lambda t: t.assign(true_class_prob="high"), "text where numbers belong"),
    ],
)
def test_damaged_files_are_refused(root, change, complaint):
    path = root / "eval_results" / "classification" / "eval_birdsnap_orig_meta_test_wrap_ffn.csv"
    change(pd.read_csv(path, index_col=0)).to_csv(path)
    with pytest.raises(ReleasedResultsError, match=complaint):
        load_released_results("birdsnap", "wrap_ffn", root)


def test_regression_files_even_those_named_copy(root):
    rng = np.random.default_rng(2)
    table = pd.DataFrame(rng.uniform(-60, 60, (N, 2)), columns=["lon", "lat"])
    table["predictions"], table["labels"], table["relative_error"] = rng.random((3, N))
    folder = root / "eval_results" / "regression"
    table.to_csv(folder / "eval_mosaiks_nightlights__test_xyz copy.csv", index=False)
    read = load_released_results("mosaiks_nightlights", "xyz", root)
    assert list(read.columns) == ["lon", "lat", "prediction", "label"]
    np.testing.assert_allclose(read["label"], table["labels"])

    sines = table.assign(lon=np.sin(table["lon"]), lat=np.sin(table["lat"]))
    sines.to_csv(folder / "eval_mosaiks_nightlights__test_wrap copy.csv", index=False)
    read = load_released_results("mosaiks_nightlights", "wrap", root)
    assert read[["lon", "lat"]].isna().all(axis=None) and "two angles share" in read.attrs["notes"][0]


def test_what_is_missing_here_and_what_was_never_released_are_told_apart(root):
    with pytest.raises(ReleasedFilesMissingError, match="python data_scripts"):
        load_released_results("yfcc", "nerf", root)
    with pytest.raises(NotReleasedError, match="absent"):
        load_released_results("inat2017", "nerf", root)
    with pytest.raises(ValueError, match="use one of birdsnap, "):
        load_released_results("imagenet", "nerf", root)
    with pytest.raises(ValueError, match="use one of no_prior, "):
        load_released_results("yfcc", "sphereC", root)


def test_where_files_are_looked_for(root, tmp_path, monkeypatch):
    assert released_root(root) == root
    assert released_root() == tmp_path / "cache" / "TorchSpatial"
    assert not has_released_results()
    monkeypatch.setenv("TSLAB_MIRROR", str(root))
    assert released_root() == root
    monkeypatch.setenv("TSLAB_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(ReleasedFilesMissingError, match="TSLAB_MIRROR="):
        released_root()


# --- files that are not the released ones ---------------------------------


@pytest.fixture
def one_released_file(tmp_path, mirror):
    """A copy of one small released file in a folder of its own."""
    original = result_path("mosaiks_elevation", "xyz", mirror)
    path = tmp_path / "eval_results" / "regression" / original.name
    path.parent.mkdir(parents=True)
    path.write_bytes(original.read_bytes())
    return path


DAMAGE = {
    "cut in the middle of a row": lambda content: content[: len(content) // 2],
    "cut after a row": lambda content: content[: content.rindex(b"\n", 0, -1) + 1],
    "doubled": lambda content: content + content.split(b"\n", 1)[1],
    "one digit changed": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "emptied": lambda content: b"\n",
}


@pytest.mark.mirror
@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_is_not_the_released_one_gives_no_number(one_released_file, name, monkeypatch):
    root = one_released_file.parents[2]
    assert len(load_released_results("mosaiks_elevation", "xyz", root)) == 4981
    one_released_file.write_bytes(DAMAGE[name](one_released_file.read_bytes()))
    with pytest.raises(DamagedReleasedFileError) as caught:
        load_released_results("mosaiks_elevation", "xyz", root)
    assert str(one_released_file) in str(caught.value) and "fetch_released.py" in str(caught.value)
    assert ("SHA-256" if name == "one digit changed" else "bytes") in str(caught.value)
    if name == "doubled":  # whoever says that these are his own results gets them, with a note
        monkeypatch.setenv("TSLAB_OWN_RESULTS", "1")
        own = load_released_results("mosaiks_elevation", "xyz", root)
        assert len(own) == 2 * 4981 and "not the checksummed release file" in own.attrs["notes"][-1]


@pytest.mark.mirror
def test_a_damaged_sibling_gives_no_coordinates(tmp_path, mirror):
    for encoder in ("no_prior", "tile"):
        original = result_path("birdsnap", encoder, mirror)
        path = tmp_path / "eval_results" / "classification" / original.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(original.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"7", b"8", 1))
    with pytest.raises(DamagedReleasedFileError, match="tile"):
        load_released_results("birdsnap", "no_prior", tmp_path)


# --- the release itself ------------------------------------------------------------


def test_the_index_covers_the_release():
    assert len(released_files(kinds=["classification"])) == 97
    assert len(released_files(kinds=["regression"])) == 64
    assert [f.encoder for f in released_files(datasets=["inat2017"])] == ["no_prior"]
    assert {f.size for f in released_files(datasets=["fmow"], encoders=["siren_sh"])} == {1}
    assert all(len(f.sha256) == 64 for f in released_files(kinds=["checkpoint"]))


@pytest.mark.mirror
def test_released_files_have_the_recorded_checksums(mirror):
    states = verify_released(released_files(kinds=["classification", "regression", "checkpoint"]), mirror)
    assert set(states.values()) == {"ok"}
    assert has_released_results(mirror)


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("dataset", "rows", "located"),
    [
        ("birdsnap", 2262, 816),
        ("birdsnap_ebird", 2262, 2217),
        ("nabirds", 24633, 24411),
        ("inat2017", 95986, 0),
        ("inat2018", 24426, 24343),
        ("yfcc", 17798, 17798),
        ("fmow", 53041, 53041),
    ],
)
def test_rows_and_locations_of_the_image_model(mirror, dataset, rows, located):
    table = load_released_results(dataset, "no_prior", mirror)
    assert (len(table), table.attrs["n_located"]) == (rows, located)


@pytest.mark.mirror
def test_every_released_classification_file_lists_the_same_images(mirror):
    for dataset in ("birdsnap", "yfcc"):
        reference = load_released_results(dataset, "no_prior", mirror)
        for encoder in ENCODER_TOKENS:
            table = load_released_results(dataset, encoder, mirror)
            pd.testing.assert_frame_equal(table[["lon", "lat"]], reference[["lon", "lat"]])
            assert len(table.attrs["notes"]) == (encoder in ("no_prior", "wrap"))


@pytest.mark.mirror
def test_without_a_location_every_encoder_is_the_image_model(mirror):
    image = load_released_results("inat2018", "no_prior", mirror)
    alone = image["lon"].isna()
    for encoder in ("wrap", "sphere2vec_dfs"):
        table = load_released_results("inat2018", encoder, mirror)
        np.testing.assert_allclose(table["true_class_prob"][alone], image["true_class_prob"][alone], atol=1e-6)
        assert not np.allclose(table["true_class_prob"][~alone], image["true_class_prob"][~alone])


@pytest.mark.mirror
def test_every_released_regression_file_is_readable(mirror):
    rows = {"mosaiks_population": 4256, "mosaiks_nightlights": 4922}
    for dataset in (key for key in DATASET_TOKENS if key.startswith("mosaiks_")):
        for encoder in ENCODER_TOKENS:
            table = load_released_results(dataset, encoder, mirror)
            assert len(table) == rows.get(dataset, 4981)
            assert table["lon"].isna().all() == (encoder == "wrap")


# --- fetching ------------------------------------------------------------

CONTENT = b"made up: " + bytes(range(256)) * 64
FILE = ReleasedFile(
    path="eval_results/classification/eval_made_up+1 copy.csv",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    kind="classification",
    dataset="made_up",
    encoder="made_up",
)
NEW, OLD = Source("a" * 40), Source("b" * 40, flat=True)
NEW_PATH = f"/seai-lab/TorchSpatial/{'a' * 40}/eval_results/classification/eval_made_up%2B1%20copy.csv"
OLD_PATH = f"/seai-lab/TorchSpatial/{'b' * 40}/eval_results/eval_made_up%2B1%20copy.csv"


@pytest.fixture
def server():
    """A loopback server; ``server.pages`` maps a path to bytes, ``server.cut`` drops connections half way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            instance.seen.append(self.path)
            body = instance.pages.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if instance.cut else body)

        def log_message(self, *_):
            pass

    instance = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    instance.pages, instance.seen, instance.cut = {NEW_PATH: CONTENT}, [], False
    instance.host = f"http://127.0.0.1:{instance.server_port}"
    threading.Thread(target=instance.serve_forever, daemon=True).start()
    yield instance
    instance.shutdown()
    instance.server_close()


def everything_under(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def fetch(server, folder, **options):
    return fetch_released([FILE], folder, sources=options.pop("sources", (NEW, OLD)), host=server.host, retries=0)


def test_a_file_is_fetched_once_and_then_skipped(server, tmp_path):
    assert fetch(server, tmp_path) == {FILE.path: "fetched"}
    assert (tmp_path / FILE.path).read_bytes() == CONTENT
    assert fetch(server, tmp_path) == {FILE.path: "skipped"}
    assert len(server.seen) == 1
    assert everything_under(tmp_path) == [FILE.path]


def test_a_damaged_file_is_replaced(server, tmp_path):
    path = tmp_path / FILE.path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    assert fetch(server, tmp_path) == {FILE.path: "fetched"}
    assert path.read_bytes() == CONTENT


def test_a_file_absent_from_one_commit_comes_from_another(server, tmp_path):
    server.pages = {OLD_PATH: CONTENT}
    assert fetch(server, tmp_path) == {FILE.path: "fetched"}
    assert server.seen == [NEW_PATH, OLD_PATH]


def test_a_wrong_checksum_is_refused_and_nothing_is_left(server, tmp_path):
    server.pages = {NEW_PATH: CONTENT[::-1]}
    with pytest.raises(FetchError, match="expected checksum"):
        fetch(server, tmp_path)
    assert everything_under(tmp_path) == []


def test_an_interrupted_download_leaves_nothing_and_can_be_resumed(server, tmp_path):
    server.cut = True
    with pytest.raises(FetchError, match="run the same command again"):
        fetch(server, tmp_path)
    assert everything_under(tmp_path) == []
    server.cut = False
    assert fetch(server, tmp_path) == {FILE.path: "fetched"}


def test_a_server_that_sends_more_than_the_file_is_stopped(server, tmp_path, monkeypatch):
    """The disk would be full before the checksum could be compared."""
    written = []
    real = requests.Response.iter_content
    monkeypatch.setattr(
        requests.Response,
        "iter_content",
        lambda self, chunk_size: (written.append(len(c)) or c for c in real(self, chunk_size)),
    )
    server.pages = {NEW_PATH: CONTENT + bytes(1_000_000), OLD_PATH: CONTENT + b"!"}
    with pytest.raises(FetchError, match="sends more than"):
        fetch(server, tmp_path)
    assert sum(written) < 3 * len(CONTENT)  # of a million bytes more, from two places
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_full_disk_or_ctrl_c_leaves_nothing(server, tmp_path, monkeypatch, fault):
    def write_half(self, url, output_file, pooch, **_):
        Path(output_file).write_bytes(CONTENT[:100])
        raise fault

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", write_half)
    with pytest.raises((FetchError, KeyboardInterrupt)) as caught:
        fetch(server, tmp_path)
    if isinstance(fault, OSError):
        assert "the disk is full" in str(caught.value) and "TSLAB_DATA" in str(caught.value)
    assert everything_under(tmp_path) == []


def test_addresses_are_pinned_to_full_commits():
    assert all(len(source.commit) == 40 and int(source.commit, 16) for source in SOURCES)
    assert Source("c" * 40).url("eval_results/x copy.csv").endswith(f"{'c' * 40}/eval_results/x%20copy.csv")


# --- the second source -----------------------------------------------------------

PIN = "d" * 40
LIST = f"/repos/seai-lab/PyGBS/git/trees/{PIN}?recursive=1"
PLACE = f"/seai-lab/PyGBS/{PIN}/some/folder/eval_inat_2017__val_NeRF.csv"
KEPT = "eval_results/PyGBS/eval_inat_2017__val_NeRF.csv"


@pytest.fixture
def second(server, tmp_path, monkeypatch):
    """A server with results of nerf, and a call that fetches from it into an empty folder."""
    monkeypatch.delenv("TSLAB_MIRROR", raising=False)
    (_, (probability, rank), lonlat) = synthetic_classification()
    table = pd.DataFrame({"lon": lonlat[:, 0], "lat": lonlat[:, 1], "true_class_prob": probability})
    table = table.assign(reciprocal_rank=1 / rank, **{"hit@1": 1.0 * (rank == 1), "hit@3": 1.0 * (rank <= 3)})
    content = table.to_csv().encode()
    tree = [{"path": "some/folder/eval_inat_2017__val_NeRF.csv", "size": len(content)}, {"path": "some/folder"}]
    server.pages = {LIST: json.dumps({"tree": tree}).encode(), PLACE: content}
    server.call = lambda: fetch_second_source(tmp_path, commits=[PIN], host=server.host, api=server.host, retries=0)
    return server


def test_results_of_the_second_repository_are_found_by_name_and_their_checksum_is_recorded(second, tmp_path):
    states = second.call()
    assert states[KEPT] == "fetched" and list(states.values()).count("absent") == 3
    recorded = json.loads((tmp_path / "eval_results/PyGBS/checksums.json").read_text())
    assert recorded == {"eval_inat_2017__val_NeRF.csv": hashlib.sha256(second.pages[PLACE]).hexdigest()}
    asked = len(second.seen)
    assert second.call()[KEPT] == "skipped" and PLACE not in second.seen[asked:]
    table = load_released_results("inat2017", "nerf", tmp_path)
    assert len(table) == N and "seai-lab/PyGBS" in table.attrs["notes"][0]


def test_a_file_that_is_another_than_at_first_is_refused(second, tmp_path):
    second.call()
    (tmp_path / KEPT).write_bytes(second.pages[PLACE][:-20])
    with pytest.raises(DamagedReleasedFileError, match="SHA-256"):
        load_released_results("inat2017", "nerf", tmp_path)
    second.pages[PLACE] = second.pages[PLACE].replace(b"1.0", b"0.0", 1)
    with pytest.raises(FetchError, match="expected checksum"):
        second.call()
    assert not (tmp_path / KEPT).exists()


def test_what_is_no_table_of_results_is_not_kept(second, tmp_path):
    second.pages[PLACE] = b"lat,lon,hit@1,score\n" + b"1,2,0.0,9\n" * 500
    with pytest.raises(FetchError, match="has no columns true_class_prob"):
        second.call()
    assert everything_under(tmp_path) == []
    with pytest.raises(NotReleasedError, match="--second-source"):
        load_released_results("inat2017", "nerf", tmp_path)


def test_no_list_of_files_is_said(second, tmp_path):
    second.pages = {}
    with pytest.raises(FetchError, match="lists no files"):
        second.call()


def test_the_image_alone_takes_no_places_from_another_repository(second, tmp_path, monkeypatch):
    second.call()
    monkeypatch.setenv("TSLAB_OWN_RESULTS", "1")
    (tmp_path / "eval_results" / "classification").mkdir()
    write(tmp_path, "inat_2017__val_no_prior", synthetic_classification()[0], None)
    assert load_released_results("inat2017", "no_prior", tmp_path).attrs["n_located"] == 0


def test_the_record_fills_where_somebody_has_the_files(second, tmp_path):
    from tslab.benchmark import ResultStore, audit, plan, run_all

    second.call()
    specs = plan(["top1"], datasets=["inat2017"], encoders=["nerf", "xyz"])
    run_all(specs, tmp_path / "store", root=tmp_path, progress=False)
    cells = audit(ResultStore(tmp_path / "store")).query("dataset == 'inat2017' and metric == 'top1'")
    cells = cells.set_index("encoder")
    assert cells.loc["nerf", "source"] == KEPT
    hits = load_released_results("inat2017", "nerf", tmp_path)["hit1"]
    assert cells.loc["nerf", "recomputed"] == pytest.approx(100 * hits.mean())
    assert cells.loc["xyz", "reason"] == "no file"


# --- the command line ------------------------------------------------------------


@pytest.fixture
def script():
    path = Path(__file__).parents[1] / "data_scripts" / "fetch_released.py"
    spec = importlib.util.spec_from_file_location("fetch_released", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_list_and_verify_say_what_is_missing(script, root, capsys):
    assert script.main(["--list", "--datasets", "yfcc", "--encoders", "nerf", "wrap"]) == 1
    out = capsys.readouterr().out
    assert "missing  eval_results/classification/eval_yfcc__test_NeRF.csv" in out
    assert "0 verified, 2 missing" in out
    assert script.main(["--datasets", "inat2017", "--encoders", "nerf"]) == 1


@pytest.mark.mirror
def test_with_a_mirror_the_script_verifies_in_place(script, mirror, monkeypatch, capsys):
    monkeypatch.setenv("TSLAB_MIRROR", str(mirror))
    assert script.main(["--datasets", "yfcc", "--checkpoints"]) == 0
    assert "25 verified, 0 missing" in capsys.readouterr().out


def test_result_paths_know_the_irregular_names(root):
    folder = root / "eval_results" / "regression"
    for name in ("elevation__test_no_prior_regress copy", "population__test_no_prior_regress"):
        (folder / f"eval_mosaiks_{name}.csv").write_text("x")
    assert result_path("mosaiks_elevation", "no_prior", root).name.endswith("no_prior_regress copy.csv")
    assert result_path("mosaiks_population", "no_prior", root).name.endswith("no_prior_regress.csv")
