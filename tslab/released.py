"""Reading the released per-sample results, traps included.

For each dataset and encoder the TorchSpatial authors released one CSV with a row per evaluated image: where
it was taken and how the model did on it. The files are not uniform, and reading them naively gives wrong
coordinates:

- classification files of ``no_prior`` have no coordinates at all; all classification files of a dataset list
  the same images in the same order, so coordinates come from a sibling file by row;
- ``wrap`` files store sin(pi lon / 180) and sin(pi lat / 90) where the others store degrees;
- many rows have no location (1,446 of the 2,262 BirdSnap images): these are NaN and stay NaN;
- regression files each hold their own random draw of test rows, so nothing can be taken from a sibling by
  row;
- one file is empty, the iNat2017 files of all encoders are absent, some names end in `` copy``.

Whatever is joined is checked first, and what cannot be read truthfully is refused. Where the files come from
is the business of `tslab.released_files`.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from tslab._files import read_csv
from tslab.released_files import (
    ENCODER_TOKENS,
    HOW_TO_GET,
    SECOND_FOLDER,
    SECOND_SOURCE,
    EmptyFileError,
    NotReleasedError,
    ReleasedFilesMissingError,
    ReleasedResultsError,
    check_released_file,
    result_path,
)

REGRESSION_COLUMNS = ("lon", "lat", "prediction", "label")

SINE_TOLERANCE = 1e-5
"""Largest |stored sine feature - sine of the sibling's degrees|; float32 rounding gives 3e-7."""

MIN_CORRELATION = 0.5
"""Smallest correlation of true-class probabilities between aligned files (measured 0.73 to 0.93)."""


def load_released_results(dataset: str, encoder: str, root: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Released per-sample results of one encoder on one dataset, one row per evaluated image.

    Classification datasets (birdsnap, birdsnap_ebird, nabirds, inat2017, inat2018, yfcc, fmow) give
        lon, lat: degrees, float64, NaN where the image has no location;
        true_class_prob: predicted probability of the true class, float64 in [0, 1] (image model times
            location model, not normalised over classes for location encoders);
        reciprocal_rank: 1 / rank of the true class, float64;
        hit1, hit3: true class ranked first, or among the first three, bool.
    Regression datasets (mosaiks_population, _forest_cover, _nightlights, _elevation) give
        lon, lat: degrees, float64;
        prediction, label: float64, in the released units (log1p of people/km2, of percent tree cover and of
            nW/cm2/sr; metres).

    Rows keep the order of the file. All classification files of a dataset list the same images in the same
    order; regression files each hold another random draw of the test rows and must not be compared row by
    row.

    ``result.attrs`` holds ``dataset``, ``encoder``, ``source`` (file name), ``n``, ``n_located`` and
    ``notes``: a tuple of sentences on everything that is not simply read from the file, empty for a regular
    file.

    Args:
        dataset: dataset key.
        encoder: encoder key, or ``no_prior`` (the image model alone).
        root: a copy of the TorchSpatial repository; default ``TSLAB_MIRROR``, then the cache folder.

    Raises:
        ValueError: unknown dataset or encoder.
        NotReleasedError: the release has no such file, or (`EmptyFileError`) an empty one (siren_sh on fmow,
            all encoders on inat2017).
        ReleasedFilesMissingError: the file is not on this machine; says how to get it.
        ReleasedResultsError: the file is damaged or contradicts its siblings; `DamagedReleasedFileError` where it has
            not the released checksum (``TSLAB_OWN_RESULTS=1`` reads files of your own, see `tslab.released_files`).
    """
    path = result_path(dataset, encoder, root)
    different = check_released_file(path)
    if path.stat().st_size < 16:
        raise EmptyFileError(
            f"{path.name} is empty in the release ({path.stat().st_size} bytes): there are no results of "
            f"{encoder} on {dataset} "
            "to read; use another encoder, or train this one with tslab.train"
        )
    notes: list[str] = []
    table = _read(path, dataset, encoder, root, notes)
    _check_degrees(table, path)
    if path.parent.name == Path(SECOND_FOLDER).name:
        notes.append(f"{path.name} is not of the release: it comes from {SECOND_SOURCE['repository']}.")
    if different:
        notes.append(f"{path.name} is not the checksummed release file ({different}).")
    table.attrs.update(
        dataset=dataset,
        encoder=encoder,
        source=path.name,
        n=len(table),
        n_located=int((table["lon"].notna() & table["lat"].notna()).sum()),
        notes=tuple(notes),
    )
    return table


def _read(
    path: Path, dataset: str, encoder: str, root: str | os.PathLike[str] | None, notes: list[str]
) -> pd.DataFrame:
    """The rows of a file with degrees, or without where they cannot be had; ``notes`` says where they are from."""
    if dataset.startswith("mosaiks_"):
        table = _read_regression(path)
        if encoder == "wrap":  # a sine has two angles in range, and no sibling holds the same rows
            table[["lon", "lat"]] = np.nan
            notes.append(
                f"No coordinates: {path.name} stores sin(pi lon / 180) and sin(pi lat / 90), each of which two angles "
                "share, and regression files hold different rows, so degrees cannot be taken from a sibling."
            )
    else:
        table = _read_classification(path)
        if encoder in ("no_prior", "wrap"):
            _join_coordinates(table, dataset, encoder, root, path, notes)
    return table


def _read_classification(path: Path) -> pd.DataFrame:
    """Read a classification file; absent coordinate columns become NaN."""
    check_released_file(path)
    return check_results(path)


def check_results(path: Path) -> pd.DataFrame:
    """The columns of a classification file, whoever made it; absent coordinate columns become NaN.

    Raises:
        ReleasedResultsError: it has not the form of a released file, or contradicts itself.
    """
    wanted = {"lon": "lon", "lat": "lat", "true_class_prob": "true_class_prob", "reciprocal_rank": "reciprocal_rank"}
    wanted |= {"hit@1": "hit1", "hit@3": "hit3"}
    raw = _read_csv(path, ["Unnamed: 0", *wanted], required=["true_class_prob", "reciprocal_rank", "hit@1", "hit@3"])
    if "Unnamed: 0" in raw and not np.array_equal(raw["Unnamed: 0"], np.arange(len(raw))):
        raise _damaged(path, f"row numbers are not 0..{len(raw) - 1}, rows are missing or moved")
    table = raw.reindex(columns=list(wanted)).rename(columns=wanted).astype("float64")
    rank = table["reciprocal_rank"]
    consistent = (
        table["true_class_prob"].between(0, 1).all()
        and rank.between(0, 1, inclusive="right").all()
        and (table["hit1"] == (rank == 1)).all()
        and (table["hit3"] == (rank > 0.3)).all()  # ranks 1, 2, 3: 1, 1/2, 1/3; rank 4: 1/4
    )
    if not consistent:
        raise _damaged(path, "ranks, hits and probabilities contradict each other")
    return table.astype({"hit1": bool, "hit3": bool})


def _read_regression(path: Path) -> pd.DataFrame:
    """Read a regression file."""
    wanted = {"lon": "lon", "lat": "lat", "predictions": "prediction", "labels": "label"}
    table = _read_csv(path, list(wanted), required=list(wanted)).rename(columns=wanted)
    if not np.isfinite(table.to_numpy()).all():
        raise _damaged(path, "missing or infinite values")
    return table[list(REGRESSION_COLUMNS)]


def _read_csv(path: Path, columns: list[str], required: list[str]) -> pd.DataFrame:
    """Read some columns of a released file, saying what is wrong if that fails."""
    try:
        table = read_csv(path, usecols=lambda name: name in columns)
    except (ValueError, UnicodeDecodeError) as error:
        raise _damaged(path, f"it is not a readable CSV ({error})") from error
    missing = [name for name in required if name not in table]
    if missing or table.empty:
        what = f"columns {', '.join(missing)}" if missing else "rows"
        raise _damaged(path, f"it has no {what}")
    if any(not pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes):
        raise _damaged(path, "text where numbers belong")
    return table


def _join_coordinates(
    table: pd.DataFrame, dataset: str, encoder: str, root: str | os.PathLike[str] | None, path: Path, notes: list[str]
) -> None:
    """Put degrees from a sibling file into ``table``, by row, after checking that the rows are the same
    images."""
    found = _find_sibling(dataset, root)
    if found is None:
        table[["lon", "lat"]] = np.nan
        notes.append(
            f"No coordinates: {path.name} has none in degrees and no sibling file of {dataset} with "
            "coordinates is there."
        )
        return
    sibling, name = found
    if len(sibling) != len(table):
        raise _contradiction(path, name, f"there are {len(table)} rows but its sibling has {len(sibling)}")
    degrees = sibling[["lon", "lat"]]
    located = degrees.notna().all(axis=1)
    evidence = (
        _check_sines(table, degrees, path, name)
        if encoder == "wrap"
        else _check_same_images(table, sibling, located, path, name)
    )
    table[["lon", "lat"]] = degrees
    notes.append(f"Degrees taken by row from {name}; {evidence}.")


def _find_sibling(dataset: str, root: str | os.PathLike[str] | None) -> tuple[pd.DataFrame, str] | None:
    """The first file of the dataset that stores degrees, and its name."""
    for encoder in ENCODER_TOKENS:
        if encoder in ("no_prior", "wrap"):
            continue
        try:
            path = result_path(dataset, encoder, root)
        except (NotReleasedError, ReleasedFilesMissingError):
            continue
        if path.parent.name in ("classification", "regression") and path.stat().st_size >= 16:
            return _read_classification(path), path.name
    return None


def _check_sines(table: pd.DataFrame, degrees: pd.DataFrame, path: Path, name: str) -> str:
    """Check that the stored features are the sines of the sibling's degrees, NaN for NaN."""
    sines = np.sin(np.pi * degrees.to_numpy() / np.array([180.0, 90.0]))
    stored = table[["lon", "lat"]].to_numpy()
    same_gaps = np.array_equal(np.isnan(stored), np.isnan(sines))
    gap = float(np.nanmax(np.abs(stored - sines))) if same_gaps and not np.isnan(sines).all() else 0.0
    if not same_gaps or gap > SINE_TOLERANCE:
        what = f"its sine features do not belong to those coordinates (largest difference {gap:.2g})"
        raise _contradiction(path, name, what)
    return f"the stored sine features agree with them to {gap:.0e}"


def _check_same_images(table: pd.DataFrame, sibling: pd.DataFrame, located: pd.Series, path: Path, name: str) -> str:
    """Check that two files list the same images in the same order.

    Without a location every encoder falls back to the image model, so there both files must hold the same
    number. Elsewhere the image model still dominates, so the numbers must correlate.
    """
    ours, theirs = table["true_class_prob"].to_numpy(), sibling["true_class_prob"].to_numpy()
    alone = ~located.to_numpy()
    if not np.allclose(ours[alone], theirs[alone], atol=1e-6):
        what = "they disagree on images without location, where both are the image model: rows are not aligned"
        raise _contradiction(path, name, what)
    correlation = float(np.corrcoef(ours, theirs)[0, 1]) if len(ours) > 2 else 1.0
    if not correlation > MIN_CORRELATION:
        what = f"they do not list the same images in the same order (correlation {correlation:.2f})"
        raise _contradiction(path, name, what)
    same = f"both files agree on all {int(alone.sum())} rows without location, " if alone.any() else ""
    return f"{same}true-class probabilities correlate with {correlation:.2f}"


def _check_degrees(table: pd.DataFrame, path: Path) -> None:
    """Raise if coordinates cannot be degrees, or look like sine features."""
    lon, lat = table["lon"].abs().max(), table["lat"].abs().max()
    if lon > 180 or lat > 90:
        raise _damaged(path, "coordinates beyond +-180, +-90 degrees")
    if len(table) > 100 and lon <= 1 and lat <= 1:
        raise _damaged(path, "coordinates within +-1 are sine features, not degrees")


def _damaged(path: Path, what: str) -> ReleasedResultsError:
    return ReleasedResultsError(f"{path.name}: {what}; this is not the released file or it is damaged, {HOW_TO_GET}")


def _contradiction(path: Path, sibling: str, what: str) -> ReleasedResultsError:
    """Two files whose rows cannot be joined."""
    hint = "compare both files with the checksums: python data_scripts/fetch_released.py --verify"
    return ReleasedResultsError(f"{path.name} and coordinates from {sibling}: {what}; {hint}")
