"""Hyper-parameters: the best recorded ones of the benchmark, and what to use where nothing was recorded.

The table was read from the names of 97 released checkpoints and the epochs of their logs. They were chosen
by the benchmark's authors on the evaluated split, so a number reached with them is a little optimistic;
`tslab.tune` searches on the validation split.
"""

from importlib.resources import files
from typing import Any

import pandas as pd

from tslab._checks import check_choice

ENCODER_COLUMNS = (
    *("num_scales", "min_radius", "max_radius", "cell_size", "num_anchors", "kernel_size"),
    *("num_hidden_layers", "hidden_dim", "activation"),
)
TRAINING_COLUMNS = ("lr", "batch_size", "epochs")

SPHERE2VEC = ("sphere2vec_sphereC", "sphere2vec_sphereC+", "sphere2vec_sphereM", "sphere2vec_sphereM+")
RULES: dict[str, dict[str, Any]] = {
    "tile": {"lr": 1e-3, "num_hidden_layers": 1, "hidden_dim": 512},
    "wrap": {"lr": 5e-3},
    "wrap_ffn": {"lr": 2e-3, "num_hidden_layers": 1, "hidden_dim": 512},
    "rbf": {"lr": 1e-3, "num_anchors": 200, "kernel_size": 2.0, "num_hidden_layers": 1, "hidden_dim": 512},
    "rff": {"lr": 1e-3, "num_scales": 64, "kernel_size": 2.0, "num_hidden_layers": 1, "hidden_dim": 512},
    "xyz": {"lr": 2e-3, "num_hidden_layers": 1, "hidden_dim": 512},
    "nerf": {"lr": 1e-2, "num_hidden_layers": 1, "hidden_dim": 256, "activation": "leakyrelu"},
    "sphere2vec_dfs": {
        "lr": 5e-3,
        "num_scales": 8,
        "min_radius": 1e-2,
        "num_hidden_layers": 1,
        "hidden_dim": 512,
    },
    "siren_sh": {"lr": 1e-3, "num_hidden_layers": 1, "hidden_dim": 512},
}
RULES |= {
    key: {
        "lr": 1e-3,
        "num_scales": 64,
        "min_radius": 1e-3,
        "max_radius": 1.0,
        "num_hidden_layers": 1,
        "hidden_dim": 512,
    }
    for key in SPHERE2VEC
}
RULES |= {
    key: {
        **{"lr": 1e-2, "num_scales": 64, "min_radius": 0.05, "max_radius": 360.0, "num_hidden_layers": 1},
        **{"hidden_dim": 256, "batch_size": 4096, "activation": "leakyrelu"},
    }
    for key in ("space2vec_grid", "space2vec_theory")
}
REGRESSION: dict[str, Any] = {"lr": 2e-3, "batch_size": 512, "epochs": 30, "dropout": 0.1}
"""For numbers: nothing was recorded for them; these come from trials on the released elevation points."""
REGRESSION_SCALES: dict[str, dict[str, Any]] = {
    key: {"num_scales": 16, "min_radius": 0.01} for key in SPHERE2VEC
}
DEFAULTS: dict[str, Any] = {"lr": 1e-3, "batch_size": 1024, "epochs": 30}


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
        return pd.read_csv(handle)


def hyperparameters(
    dataset: str, encoder: str, preset: str | None = None, *, kind: str = "classification"
) -> dict[str, Any]:
    """Parameters for `tslab.train`: the recorded ones of this dataset and encoder, else rules read from the
    whole table.

    Recorded values that never reached the encoder are left out (all of them with ``preset=None``; tile's
    cell size always).
    """
    check_choice("kind", kind, ("classification", "regression"))
    chosen = DEFAULTS | RULES.get(encoder, {})
    if kind == "regression" and preset is None:
        chosen |= REGRESSION | REGRESSION_SCALES.get(encoder, {})
    table = recorded_hyperparameters()
    match = table[(table["dataset"] == dataset) & (table["encoder"] == encoder)]
    if len(match):
        recorded = {
            k: _plain(k, v) for k, v in match.iloc[0].dropna().items() if k not in ("dataset", "encoder")
        }
        inert = {"cell_size"} if encoder == "tile" else set()
        if encoder == "wrap":
            inert |= {"activation", "num_hidden_layers", "hidden_dim"}
        if encoder == "sphere2vec_dfs" and preset is None:
            inert |= {"num_scales", "min_radius"}
        if encoder == "nerf":
            inert |= {"num_scales"}
        chosen |= {k: v for k, v in recorded.items() if k not in inert}
    return chosen


def _plain(name: Any, value: Any) -> Any:
    """A Python value of the type that the parameter has."""
    whole = ("num_scales", "num_anchors", "num_hidden_layers", "hidden_dim", "batch_size", "epochs")
    return int(value) if name in whole else value if isinstance(value, str) else float(value)
