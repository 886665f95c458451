"""Rebuild ``tslab/data/land_110m.json`` from the npm package world-atlas (Natural Earth 1:110m, public
domain).

    python data_scripts/build_land.py            # fetches world-atlas with npm
    python data_scripts/build_land.py FILE.json  # reads a land-110m.json that you have

The topojson in world-atlas is stitched for drawing on a sphere: rings run across the date line and
Antarctica's ring goes around the pole. On a longitude/latitude plane such rings must be unwrapped, closed
over the pole and cut at +-180 degrees, or lines run across the map and the fill covers the wrong side.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import shapely
from shapely import affinity

from tslab._files import atomic_write

PACKAGE = "world-atlas@2.0.2"
TARGET = Path(__file__).parents[1] / "tslab" / "data" / "land_110m.json"
GRID_DEGREES = 1e-3  # about 100 m, finer than the 1:110m outline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, help="land-110m.json of world-atlas")
    source = parser.parse_args().source
    with tempfile.TemporaryDirectory() as folder:
        topology = json.loads((source or fetch_world_atlas(Path(folder))).read_text())
    pieces = [polygon for rings in decode(topology) for polygon in plane_polygons(rings)]
    union = shapely.set_precision(shapely.unary_union(pieces), GRID_DEGREES)
    polygons = sorted(shapely.get_parts(union), key=lambda polygon: -polygon.area)
    assert union.is_valid and all(polygon.geom_type == "Polygon" for polygon in polygons)
    land = {
        "source": f"Natural Earth 1:110m land (public domain), from the npm package {PACKAGE}",
        "polygons": [
            [np.round(np.asarray(ring.coords), 3).tolist() for ring in (polygon.exterior, *polygon.interiors)]
            for polygon in polygons
        ],
    }
    atomic_write(TARGET, json.dumps(land, separators=(",", ":")) + "\n")
    print(f"{TARGET}: {len(polygons)} polygons, {TARGET.stat().st_size / 1000:.0f} kB")


def fetch_world_atlas(folder: Path) -> Path:
    """Download and unpack the npm package, return the path of its 110m land file."""
    try:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        sys.exit(f"npm could not fetch {PACKAGE} ({error}); pass the path of a land-110m.json instead")
    subprocess.run(["tar", "xzf", *[str(p) for p in folder.glob("*.tgz")]], cwd=folder, check=True)
    return folder / "package" / "land-110m.json"


def decode(topology: dict) -> list[list[np.ndarray]]:
    """Topojson to polygons, each a list of rings, each an (m, 2) array of degrees; see the topojson
    specification.
    """
    scale, shift = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = [np.cumsum(arc, axis=0) * scale + shift for arc in topology["arcs"]]

    def ring(indices: list[int]) -> np.ndarray:
        parts = [arcs[i] if i >= 0 else arcs[~i][::-1] for i in indices]
        return np.concatenate([parts[0], *[part[1:] for part in parts[1:]]])

    geometry = topology["objects"]["land"]["geometries"][0]
    return [[ring(indices) for indices in polygon] for polygon in geometry["arcs"]]


def plane_polygons(rings: list[np.ndarray]) -> list[shapely.Polygon]:
    """One polygon on the sphere to polygons on the plane [-180, 180] x [-90, 90]."""
    outer, *holes = [unwrap(ring) for ring in rings]
    polygon = shapely.make_valid(shapely.Polygon(outer, holes))
    pieces = []
    for turn in (-360, 0, 360):
        window = shapely.box(-180 + turn, -90, 180 + turn, 90)
        cut = affinity.translate(shapely.intersection(polygon, window), xoff=-turn)
        pieces += [part for part in shapely.get_parts(cut) if part.geom_type == "Polygon" and part.area > 1e-6]
    return pieces


def unwrap(ring: np.ndarray) -> np.ndarray:
    """Make longitude continuous along the ring; a ring that goes around a pole is closed over that pole."""
    lon = np.unwrap(ring[:, 0], period=360)
    lon -= 360 * np.round(np.mean(lon) / 360)
    unwrapped = np.column_stack([lon, ring[:, 1]])
    if abs(lon[-1] - lon[0]) > 180:
        pole = np.copysign(90.0, ring[:, 1].mean())
        # one more copy of the ring on each side, so that the cut at +-180 finds it whole
        turn = lon[-1] - lon[0]
        copies = [unwrapped + [k * turn, 0] for k in (-1, 0, 1)]
        line = np.concatenate([copies[0], copies[1][1:], copies[2][1:]])
        return np.concatenate([line, [[line[-1, 0], pole], [line[0, 0], pole]]])
    return unwrapped


if __name__ == "__main__":
    main()
