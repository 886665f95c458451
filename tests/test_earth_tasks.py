"""Tasks of the real Earth: what is known of the planet is what they say."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fetch_earth
import tslab
from koppen import ZONES, climate_zones
from tslab.earth import CONTINENTS, continents, grid_cells, is_land
from tslab.metrics import r2
from tslab.tasks.earth import (
    BUFFER_KM,
    EARTH_TASKS,
    country_outlines,
    earth_task,
    fields,
    interpolate,
    look_up,
    nearest_node,
    read_fields,
)

SHIPPED = Path(tslab.__file__).parent / "data" / "earth"

CITIES = {
    "Singapore": (103.8, 1.35, "Af"),
    "Manaus": (-60.0, -3.1, "Af"),
    "Kinshasa": (15.3, -4.3, "Aw"),
    "Darwin": (130.8, -12.5, "Aw"),
    "Cairo": (31.2, 30.0, "BWh"),
    "Alice Springs": (133.9, -23.7, "BWh"),
    "Rome": (12.5, 41.9, "Csa"),
    "Perth": (115.9, -31.9, "Csa"),
    "Seattle": (-122.3, 47.6, "Csb"),
    "Shanghai": (121.5, 31.2, "Cfa"),
    "Sydney": (151.2, -33.9, "Cfa"),
    "London": (-0.13, 51.5, "Cfb"),
    "Moscow": (37.6, 55.75, "Dfb"),
    "Ulaanbaatar": (106.9, 47.9, "Dwc"),
    "Fairbanks": (-147.7, 64.8, "Dfc"),
    "Longyearbyen": (15.6, 78.2, "ET"),
    "Vostok": (106.8, -78.5, "EF"),
}
"""Textbook zones."""


def at(lon: float, lat: float) -> torch.Tensor:
    return torch.tensor([[lon, lat]], dtype=torch.float64)


@pytest.mark.parametrize("city", CITIES)
def test_zones_of_cities_are_those_of_textbooks(city):
    lon, lat, zone = CITIES[city]
    arrays, about = fields("climate")
    assert about["climate"][int(nearest_node(arrays["climate"], at(lon, lat)))] == zone


def test_zone_rules_at_their_limits():
    """Climates made up so that one rule after the other decides."""
    flat, summer_rain = np.ones(12), np.r_[0.1, 0.1, 0.1, 2, 2, 3, 3, 2, 2, 0.1, 0.1, 0.1]
    winter_rain = np.roll(summer_rain, 6)
    wave = -np.cos(2 * np.pi * np.arange(12) / 12)  # warmest in July
    climates = {
        "Af": (26 + wave, 100 * flat),
        "Am": (26 + wave, np.where(np.arange(12) == 0, 20, 250.0)),
        "Aw": (26 + wave, 80 * summer_rain),
        "As": (26 + wave, 80 * winter_rain),
        "BWh": (24 + 8 * wave, 5 * flat),
        "BWk": (10 + 15 * wave, 5 * flat),
        "BSh": (20 + 8 * wave, 30 * flat),
        "Csa": (16 + 9 * wave, 60 * winter_rain),
        "Cwa": (18 + 9 * wave, 60 * summer_rain),
        "Cfb": (10 + 7 * wave, 60 * flat),
        "Cfc": (5 + 7 * wave, 60 * flat),
        "Dfa": (10 + 15 * wave, 70 * flat),
        "Dfb": (5 + 14 * wave, 60 * flat),
        "Dfc": (-5 + 18 * wave, 50 * flat),
        "Dfd": (-15 + 30 * wave, 30 * flat),
        "ET": (-5 + 12 * wave, 30 * flat),
        "EF": (-20 + 10 * wave, 30 * flat),
    }
    for zone, (temperature, rain) in climates.items():
        for north, turned in ((True, 0), (False, 6)):  # the southern half of the Earth is half a year ahead
            months = np.roll(temperature, turned), np.roll(rain, turned)
            assert ZONES[int(climate_zones(*months, np.array(north)))] == zone, zone


def test_fields_are_the_planet():
    arrays, about = fields("climate")

    def temperature(lon: float, lat: float) -> float:
        return float(interpolate(arrays["temperature"], at(lon, lat))) / 100

    assert temperature(103.8, 1.35) == pytest.approx(27.5, abs=1)  # Singapore
    assert temperature(-21.9, 64.1) == pytest.approx(5, abs=2)  # Reykjavik
    assert temperature(106.8, -78.5) == pytest.approx(-55, abs=5)  # Vostok; ERA5 is too warm on the plateau
    rain = {name: float(interpolate(arrays["precipitation"], at(*place))) for name, place in
            {"Cherrapunji": (91.7, 25.3), "Atacama": (-69.5, -24.5)}.items()}  # fmt: skip
    assert rain["Cherrapunji"] > 2000 and rain["Atacama"] < 50
    assert float(interpolate(arrays["seasonality"], at(129.7, 62.0))) / 100 > 50  # Yakutsk
    places, _ = fields("places")
    people = 10 ** (interpolate(places["population"], at(139.7, 35.7)) / 1000)
    assert 2e7 < float(people) < 6e7  # Tokyo
    assert "Copernicus" in about["licence"]


def test_fields_are_whole_on_the_sphere():
    """Both sides of the date line and all longitudes at a pole are the same place."""
    arrays, _ = fields("climate")
    lat = torch.linspace(-80, 80, 9, dtype=torch.float64)
    sides = [torch.stack([torch.full_like(lat, lon), lat], -1) for lon in (-180.0, 180.0)]
    for name in ("temperature", "precipitation"):
        assert torch.equal(*(interpolate(arrays[name], side) for side in sides))
        pole = torch.stack([torch.linspace(-180, 180, 20), torch.full((20,), 90.0)], -1)
        assert interpolate(arrays[name], pole.double()).std() < 1
    assert torch.equal(*(nearest_node(arrays["climate"], side) for side in sides))


def test_countries_are_where_they_are():
    _, _, names = country_outlines()
    task = earth_task("earth_country", n=3000)
    found = dict(zip(task.meta.classes, range(len(names)), strict=True))
    lonlat, target = task.train.lonlat, task.train.target
    inside = (lonlat[:, 0].abs() < 30) & (lonlat[:, 1] < -60)
    assert not inside.any()
    brazil = lonlat[target == found["Brazil"]]
    assert len(brazil) > 50 and (brazil[:, 0] < -34).all() and (brazil[:, 1] < 6).all()


@pytest.mark.parametrize("name", EARTH_TASKS)
def test_every_task_states_its_source_and_is_drawn_on_land(name):
    task = tslab.load_task(name, n=400, seed=3)
    assert task.meta.source == "earth" and not task.meta.synthetic
    assert task.meta.licence and task.meta.citation and len(task.meta.notes) >= 2
    assert sum(len(table) for table in task.tables.values()) == 400
    again = tslab.load_task(name, n=400, seed=3)
    assert torch.equal(task.test.lonlat, again.test.lonlat) and torch.equal(task.test.target, again.test.target)
    if name != "earth_elevation":
        assert is_land(task.train.lonlat.double()).double().mean() > 0.99  # single precision moves a coast by a metre


def test_places_are_uniform_by_area():
    """Half of the sphere's land lies where half of the drawn places lie: by sin(latitude), not by latitude."""
    lonlat = tslab.load_task("earth_temperature", n=20_000).train.lonlat
    assert (lonlat[:, 1] > 60).double().mean() == pytest.approx(0.128, abs=0.02)


def test_splits_ask_what_they_say():
    kinds = {split: earth_task("earth_temperature", n=4000, seed=1, split=split) for split in
             ("random", "block", "buffer", "continent")}  # fmt: skip
    block = kinds["block"]
    cells = [set(grid_cells(table.lonlat, 10.0).tolist()) for table in block.tables.values()]
    assert not cells[0] & cells[2] and not cells[0] & cells[1]
    buffer = kinds["buffer"]
    near = tslab.coords.great_circle_distance(buffer.train.lonlat[:, None], buffer.test.lonlat[None]).amin()
    assert near > BUFFER_KM - 1
    left_out = kinds["continent"]
    assert set(left_out.test.group.tolist()) == {1} and 1 not in set(left_out.train.group.tolist())
    assert list(CONTINENTS.values())[1] in left_out.meta.notes[1]
    assert torch.equal(continents(left_out.test.lonlat), left_out.test.group)


def test_the_shipped_grid_is_as_good_as_its_note_says():
    arrays, about = fields("climate")
    fine = arrays["temperature"]
    assert fetch_earth.agreement(fine, fine, classes=False) == 1
    assert fetch_earth.agreement(fine[::2, ::2], fine, classes=False) < about["agreement"]["temperature"]


def test_neighbours_tell_the_temperature():
    task = tslab.load_task("earth_temperature", n=3000)
    baseline = tslab.fit_baseline("knn", task)
    assert r2(baseline.predict(task.test.lonlat), task.test.target) > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tslab.load_task("earth_weather"), "earth_temperature"),
        (lambda: tslab.load_task("earth_climate", "synthetic"), "source 'earth' has"),
        (lambda: tslab.load_task("yfcc", "earth"), "source 'earth' has"),
        (lambda: tslab.load_task("earth_elevation", n=10**6), "number of airports"),
        (lambda: tslab.load_task("earth_climate", n=3), "n must be"),
        (lambda: tslab.load_task("earth_climate", split="blocks"), "random, block, buffer, continent"),
        (lambda: tslab.load_task("earth_climate", resolution="fine"), "shipped, full"),
        (lambda: look_up("earth_elevation", at(0.0, 0.0)), "earth_temperature"),
        (lambda: look_up("earth_climate", at(float("nan"), 0.0)), "missing"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_full_resolution_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"fetch_earth\.py --only climate"):
        tslab.load_task("earth_climate", resolution="full")
    (tmp_path / "earth").mkdir()
    (tmp_path / "earth" / "climate.npz").write_bytes((SHIPPED / "climate.npz").read_bytes()[:1000])
    with pytest.raises(ValueError, match="delete it and run"):
        tslab.load_task("earth_climate", resolution="full")


def archive(members: dict[str, bytes]) -> bytes:
    """A wheel with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A registry that hands out whatever ``serve`` was given, and a cache folder."""
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path / "cache"))

    def serve(content: bytes, *, pinned: bytes | None = None) -> None:
        def download(package, folder):
            path = folder / "package-1.whl"
            path.write_bytes(content)
            return path

        digest = hashlib.sha256(content if pinned is None else pinned).hexdigest()
        monkeypatch.setattr(fetch_earth, "download", download)
        package = fetch_earth.PACKAGES["airports"]
        monkeypatch.setitem(fetch_earth.PACKAGES, "airports", replace(package, sha256=digest))

    return serve, tmp_path / "cache" / "earth"


AIRPORTS = "lat,lon,elevation\n" + "\n".join(f"{i / 10},{i / 7},{10 * i}" for i in range(100))


def test_a_fetched_file_is_read_at_full_resolution(registry, capsys):
    serve, folder = registry
    serve(archive({"airportsdata/airports.csv": AIRPORTS.encode()}))
    assert fetch_earth.main(["--only", "airports"]) == 0
    task = tslab.load_task("earth_elevation", n=50, resolution="full")
    metres = 3.048 * torch.round(task.train.lonlat[:, 1] * 10)
    assert torch.allclose(task.train.target, metres, atol=0.5)
    assert fetch_earth.main(["--only", "airports"]) == 0 and "already" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["airports.npz"]


@pytest.mark.parametrize(
    ("content", "pinned", "message"),
    [
        (archive({"airportsdata/airports.csv": AIRPORTS.encode()})[:200], b"whole", "truncated"),
        (archive({"airportsdata/other.csv": b""}), None, "another layout"),
    ],
)
def test_archives_that_differ_are_refused(registry, capsys, content, pinned, message):
    serve, folder = registry
    serve(content, pinned=pinned)
    assert fetch_earth.main(["--only", "airports"]) == 1
    assert message in capsys.readouterr().err
    assert not folder.exists() or not list(folder.iterdir())


def test_a_missing_program_and_a_dead_network_say_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch_earth.main(["--only", "countries"]) == 1
    assert "install Node.js" in capsys.readouterr().err
    monkeypatch.setattr(fetch_earth.sys, "executable", "/bin/false")
    assert fetch_earth.main(["--only", "geoclip"]) == 1
    assert "online" in capsys.readouterr().err


def test_list_names_licences(capsys):
    assert fetch_earth.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("Copernicus", "CC BY 4.0", "public domain", "MIT"))


def test_shipped_files_are_small_and_say_where_they_come_from():
    paths = list(SHIPPED.glob("*.npz"))
    assert len(paths) == 4 and sum(path.stat().st_size for path in paths) < 1e6
    for path in paths:
        arrays, about = read_fields(path)
        assert about["source"] and about["licence"]
        assert all(array.dtype.kind in "iu" for array in arrays.values())
        json.dumps(about)
