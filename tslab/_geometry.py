"""Places out of tables: from columns of degrees, and from point geometries, in frames and in Arrow tables alike.

A geometry column is read with its own coordinate system and brought to longitude and latitude (WGS 84). In Parquet,
the system stands in the ``geo`` metadata (GeoParquet), or in those of the column (GeoArrow); where GeoParquet names
none it is OGC:CRS84, and a column of well-known binary without any metadata is taken for degrees. Whatever is not a
point is refused, an empty point and a null are missing places.
"""

import json
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from tslab._checks import require
from tslab.coords import CoordinateError

DEGREES = ("OGC:CRS84", "EPSG:4326")
"""Coordinate systems that need no transformation: longitude and latitude on WGS 84, x first as in every file."""

Places = Float[np.ndarray, "n 2"]


def places_of_frame(frame: pd.DataFrame, lon: str, lat: str) -> Places:
    """Places of a frame, float64: from its point geometries if it has any, else from its columns of degrees.

    Raises:
        KeyError: neither.
        CoordinateError: geometries that are no points or without a coordinate system; columns that are no numbers.
    """
    geometries: Any = getattr(getattr(frame, "geometry", None), "array", None)
    if getattr(getattr(geometries, "dtype", None), "name", "") == "geometry":
        if geometries.crs is None:
            hint = "say which one they are in with frame.set_crs(...)"
            raise CoordinateError(f"the geometries have no coordinate system; {hint}")
        return to_degrees(_coordinates(np.asarray(geometries, dtype=object)), geometries.crs.to_json())
    for name in (lon, lat):
        if name not in frame:
            raise KeyError(f"no column {name!r} in the frame; it has {', '.join(map(str, frame.columns))}")
        if frame[name].ndim != 1:
            raise KeyError(f"{frame[name].shape[1]} columns of the frame are called {name!r}; keep one of them")
    return np.stack([_numbers(frame[name], name) for name in (lon, lat)], axis=1)


def places_of_table(table: Any, columns: list[str]) -> Places:
    """Places of an Arrow table, float64: from two ``columns`` of degrees, or from one of point geometries.

    Raises:
        CoordinateError: geometries that are no points or in an unknown coordinate system; columns that are no numbers.
    """
    pa, pc = require("pyarrow", "geo"), require("pyarrow.compute", "geo")
    plain = []
    for name in columns:
        column = table[name].combine_chunks()
        if isinstance(column.type, pa.ExtensionType):
            column = column.storage
        plain.append(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)
    if len(columns) == 2:
        return np.stack([_numbers(*both) for both in zip((c.to_pandas() for c in plain), columns, strict=True)], axis=1)
    points, kind, crs = plain[0], plain[0].type, crs_of(table.schema, columns[0])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return to_degrees(_coordinates(_from_wkb(points)), crs)
    if pa.types.is_struct(kind) and [kind.field(i).name for i in range(min(2, kind.num_fields))] == ["x", "y"]:
        xy = points.flatten()[:2]  # null where the point is
    elif pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type) and kind.list_size >= 2:
        xy = [pc.list_element(points, i) for i in (0, 1)]
    else:
        hint = "give a column of points as well-known binary or as GeoArrow points"
        raise CoordinateError(f"column {columns[0]!r} holds {_short(kind)}, not points; {hint}")
    return to_degrees(np.stack([v.to_numpy(zero_copy_only=False).astype(np.float64) for v in xy], axis=1), crs)


def crs_of(schema: Any, name: str) -> str:
    """The coordinate system of a geometry column, as text that pyproj reads (PROJJSON, WKT or ``EPSG:...``).

    Raises:
        CoordinateError: the file says that it is unknown, or its metadata cannot be read.
    """
    about = geo_metadata(schema).get("columns", {}).get(name)
    if about is None:
        field = schema.field(name).metadata or {}
        about = _json(field.get(b"ARROW:extension:metadata") or b"{}", f"the metadata of column {name!r}")
    if not isinstance(about, dict):
        raise CoordinateError(f"the metadata of column {name!r} say {_short(about)}; write the file again")
    crs = about.get("crs", DEGREES[0])
    if crs is None:
        hint = "say which one it is in (with geopandas: frame.set_crs(...).to_parquet(...))"
        raise CoordinateError(f"column {name!r} has no coordinate system; {hint}")
    identity = crs.get("id") if isinstance(crs, dict) else None
    if isinstance(identity, dict) and f"{identity.get('authority')}:{identity.get('code')}" in DEGREES:
        return DEGREES[0]
    return crs if isinstance(crs, str) else json.dumps(crs)


def geo_metadata(schema: Any) -> dict[str, Any]:
    """The ``geo`` metadata of a GeoParquet file, or an empty dict."""
    content = (schema.metadata or {}).get(b"geo", b"{}")
    found = _json(content, "the geo metadata of the file")
    if not isinstance(found, dict) or not isinstance(found.get("columns", {}), dict):
        raise CoordinateError("the geo metadata of the file are no table of columns; write the file again")
    return found


def kept_geo_metadata(schema: Any, kept: list[str]) -> dict[str, str]:
    """The metadata under which the kept columns of a GeoParquet file are one themselves."""
    geo = geo_metadata(schema)
    columns = {name: dict(about) for name, about in geo.get("columns", {}).items() if name in kept}
    if not columns:
        return {}
    for about in columns.values():
        covering = about.pop("covering", None)
        with suppress(AttributeError, TypeError, LookupError):  # columns of bounding boxes, as long as they are kept
            if all(box[0] in kept for box in covering["bbox"].values()):
                about["covering"] = covering
    primary = geo.get("primary_column")
    primary = primary if primary in columns else next(iter(columns))
    return {"geo": json.dumps(geo | {"columns": columns, "primary_column": primary})}


def to_degrees(xy: Places, crs: str) -> Places:
    """Coordinates in the system ``crs`` as longitude and latitude; a row with a NaN is a missing place.

    Raises:
        CoordinateError: an unknown system, or coordinates that do not lie in it.
    """
    transformer = _transformer(crs)
    known = np.isfinite(xy).all(axis=1)
    if transformer is None or not known.any():
        return xy
    out = xy.copy()
    out[known] = np.stack(transformer.transform(xy[known, 0], xy[known, 1]), axis=1)
    lost = known & ~np.isfinite(out).all(axis=1)
    if lost.any():
        row = int(lost.argmax())
        place = f"({xy[row, 0]:.10g}, {xy[row, 1]:.10g})"
        raise CoordinateError(
            f"row {row}: {place} lies outside its coordinate system {_name(crs)}; is that the right one?"
        )
    return out


@lru_cache
def _transformer(crs: str) -> Any:
    """What brings coordinates of ``crs`` to degrees; None if they are degrees."""
    if crs in DEGREES:
        return None
    pyproj = require("pyproj", "geo")
    try:
        system = pyproj.CRS.from_user_input(crs)
        if ":".join(system.to_authority() or ()) in DEGREES:
            return None
        return pyproj.Transformer.from_crs(system, DEGREES[0], always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise CoordinateError(f"coordinate system {_name(crs)} cannot be brought to degrees: {error}") from error


def _from_wkb(column: Any) -> Any:
    """Geometries of an Arrow array of well-known binary."""
    shapely = require("shapely", "geo")
    points = shapely.from_wkb(column.to_numpy(zero_copy_only=False), on_invalid="ignore")
    bad = shapely.is_missing(points) & column.is_valid().to_numpy(zero_copy_only=False)
    if bad.any():
        raise CoordinateError(f"row {bad.argmax()}: the geometry is no well-known binary; is the file damaged?")
    systems = set(shapely.get_srid(points).tolist()) - {-1, 0, 4326}
    if systems:
        hint = 'bring them to degrees first (with geopandas: frame.to_crs("EPSG:4326"))'
        raise CoordinateError(f"the geometries are marked as EPSG:{min(systems)}; {hint}")
    return points


def _coordinates(points: Any) -> Places:
    """x and y of an array of shapely points; NaN for an empty or missing one."""
    shapely = require("shapely", "geo")
    wrong = ~np.isin(shapely.get_type_id(points), (-1, 0))
    if wrong.any():
        row = int(wrong.argmax())
        hint = "use frame.representative_point() or frame.explode() first"
        raise CoordinateError(f"row {row}: geometry {points[row].geom_type} is not a point; {hint}")
    known = ~(shapely.is_missing(points) | shapely.is_empty(points))
    xy = np.full((len(points), 2), np.nan)
    xy[known] = np.stack([shapely.get_x(points[known]), shapely.get_y(points[known])], axis=1)
    return xy


def _numbers(column: pd.Series, name: str) -> Float[np.ndarray, " n"]:
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind not in ("floating", "integer", "mixed-integer-float", "decimal", "empty"):
        raise CoordinateError(f"column {name!r} holds {kind}, not degrees; convert it to numbers")
    return column.to_numpy(np.float64, na_value=np.nan)


def _json(content: bytes, what: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CoordinateError(f"{what} cannot be read ({error}); write the file again") from error


def _name(crs: str) -> str:
    """A short name of a coordinate system for a message."""
    try:
        return str(json.loads(crs)["name"])
    except (ValueError, KeyError, TypeError):
        return crs[:80]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
