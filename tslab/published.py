"""The published numbers, exactly as printed, and the names they are printed under.

Every number here was read from the tables of one paper and nothing was recomputed: what we get ourselves
lives in `tslab.benchmark` and is never mixed into these tables. Source: Wu et al., *TorchSpatial: A Location
Encoding Framework and Benchmark for Spatial Representation Learning*, NeurIPS 2024 (Datasets and Benchmarks),
arXiv:2406.15658.
"""

from importlib.resources import files

import pandas as pd

from tslab._files import packaged_json, read_csv
from tslab.encoders import ENCODERS

SOURCE = "Wu et al., TorchSpatial, NeurIPS 2024 Datasets and Benchmarks, arXiv:2406.15658"

_NAMES = packaged_json("published_names.json")
CLASSIFICATION_DATASETS: dict[str, str] = _NAMES["classification"]
"""Key and printed name of the seven classification datasets, in the order of the paper's Table 1."""

REGRESSION_DATASETS: dict[str, str] = _NAMES["regression"]
"""Key and printed name of the ten regression datasets: four of MOSAIKS, six of SustainBench."""

ENCODER_ROWS: dict[str, str] = {
    "no_prior": "No prior (image only)",
    **{key: ENCODERS[key].name for key in _NAMES["encoders"]},
    "gpt4v": "GPT-4V",
}
"""Key and name of the rows of the paper's tables: the image model alone, fifteen encoders, GPT-4V."""

METRICS = ("top1", "r2", "geobias_base", "geobias_relative")


def published_tables() -> pd.DataFrame:
    """All 652 published numbers, one per row.

    Columns:
        dataset: key of a dataset (`CLASSIFICATION_DATASETS`, `REGRESSION_DATASETS`), or ``avg_species`` for
            the paper's column of means over the five species datasets.
        encoder: key of a table row (`ENCODER_ROWS`): an encoder, ``no_prior`` (the image model alone)
            or ``gpt4v``.
        metric: ``top1`` (percent), ``r2``, ``geobias_base`` or ``geobias_relative`` (the two geo-bias columns
            of the paper; larger means more bias).
        published: the number as printed, float64.
        mark: ``largest`` where the paper highlights the largest value of a geo-bias column, ``resampled_100``
            where GPT-4V was asked about 100 resampled images only, else the empty string.

    Source: Wu et al., TorchSpatial, NeurIPS 2024 Datasets and Benchmarks, arXiv:2406.15658.
    """
    path = files("tslab") / "data" / "published_tables.csv"
    with path.open(encoding="utf-8") as stream:
        table = read_csv(stream, dtype={"published": "float64"}, keep_default_na=False)
    table.attrs["source"] = SOURCE
    return table


def dataset_name(key: str) -> str:
    """The printed name of a dataset, for instance ``BirdSnap†`` for ``birdsnap_ebird``.

    Raises:
        ValueError: the key is not one of the published datasets.
    """
    return _name("dataset", key, CLASSIFICATION_DATASETS | REGRESSION_DATASETS)


def encoder_row_name(key: str) -> str:
    """The name of a table row, for instance ``NeRF`` for ``nerf`` (encoders: their name in `tslab.ENCODERS`).

    Raises:
        ValueError: the key is not a row of the published tables.
    """
    return _name("row", key, ENCODER_ROWS)


def _name(what: str, key: str, names: dict[str, str]) -> str:
    if key not in names:
        raise ValueError(f"no published {what} {key!r}; use one of {', '.join(names)}")
    return names[key]
