"""Hyper-parameters: the best recorded ones of the benchmark, and what to use where nothing was recorded.

``data/hyperparameters.csv`` was read from the names of 97 released checkpoints and the epochs of their logs. They were
chosen by the benchmark's authors on the evaluated split, so a number reached with them is a little optimistic;
`tslab.tune` searches on the validation split. ``data/hyperparameter_rules.json`` holds what to use elsewhere; nothing
was recorded for regression, so its values come from trials on the released elevation points.
"""

from importlib.resources import files
from typing import Any

import pandas as pd

from tslab._checks import check_choice
from tslab._files import packaged_json, read_csv


def recorded_hyperparameters() -> pd.DataFrame:
    """The recorded table, one row for each dataset and encoder; NaN where a parameter does not apply or was
    not recorded.

    Columns: dataset, encoder, lr, num_scales (F), min_radius, max_radius (degrees for space2vec, relative
    scale for sphere2vec), cell_size (degrees), num_anchors, kernel_size (rbf: sigma in degrees; rff:
    variance of the directions), num_hidden_layers, hidden_dim, batch_size, activation, epochs.

    Recorded is what the file names say. Some values never reached the encoder: the cell size of tile, the scales of
    sphere2vec_dfs and sphere2vec_sphereM+ (all frequencies were 1), the activation of wrap.
    """
    with (files("tslab") / "data" / "hyperparameters.csv").open("r", encoding="utf-8") as handle:
        return read_csv(handle)


def hyperparameters(
    dataset: str, encoder: str, preset: str | None = None, *, kind: str = "classification"
) -> dict[str, Any]:
    """Parameters for `tslab.train`: the recorded ones of this dataset and encoder, else rules read from the
    whole table.

    Recorded values that never reached the encoder are left out (all of them with ``preset=None``; tile's
    cell size always).
    """
    check_choice("kind", kind, ("classification", "regression"))
    rules = packaged_json("hyperparameter_rules.json")
    chosen: dict[str, Any] = rules["everywhere"] | rules["encoders"].get(encoder, {})
    if kind == "regression" and preset is None:
        chosen |= rules["regression"] | rules["regression_encoders"].get(encoder, {})
    table = recorded_hyperparameters()
    match = table[(table["dataset"] == dataset) & (table["encoder"] == encoder)]
    if len(match):
        recorded = {k: _plain(k, v) for k, v in match.iloc[0].dropna().items() if k not in ("dataset", "encoder")}
        sets = ("never_reached",) if preset is not None else ("never_reached", "reached_with_preset_only")
        inert = {name for which in sets for name in rules[which].get(encoder, [])}
        chosen |= {k: v for k, v in recorded.items() if k not in inert}
    return chosen


def _plain(name: Any, value: Any) -> Any:
    """A Python value of the type that the parameter has."""
    whole = ("num_scales", "num_anchors", "num_hidden_layers", "hidden_dim", "batch_size", "epochs")
    return int(value) if name in whole else value if isinstance(value, str) else float(value)
