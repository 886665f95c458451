"""The methods of the fair table: what each may choose from, and how one choice is fitted.

Every method has `BUDGET` settings, for every encoder the same seven and the released one beside them: a finest scale in
kilometres (``fair_scales.csv`` says which parameter of the encoder that is, as `tslab_book.encoder_guide.resolved_at`
measures it), width, depth, dropout, epochs and learning rate. A fit is a function of places. The chapter
{ref}`a-fair-table` shows what came out, `tslab_book.fair` does the work.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

import tslab
from tslab.baselines import CoordinateTrees, MeanLabel, NeighborAverage
from tslab.hyperparameters import hyperparameters
from tslab.kriging import LocalKriging
from tslab.tasks import Table
from tslab.tasks.splits import block_folds, random_split
from tslab_book.encoder_guide import FIXED

SCALES = Path(__file__).with_name("fair_scales.csv")
"""Columns encoder, km, parameter, value; encoders without a scale have no rows."""

BUDGET = 8
"""How many settings a method may choose from."""
BLOCK_DEG = 10.0
BATCH = 256
ANCHORS = 300
"""Anchors of rbf in the searched settings: the first training places, which are in random order."""

Predictor = Callable[[Float[Tensor, "n 2"]], Float[Tensor, " n"]]
Setting = dict[str, Any]

SEARCHED: tuple[Setting, ...] = tuple(
    dict(zip(("km", "depth", "width", "dropout", "epochs", "lr"), row, strict=True))
    for row in (
        (450, 2, 256, 0.0, 15, 3e-3),
        (700, 2, 128, 0.0, 20, 2e-3),
        (1200, 2, 128, 0.0, 20, 2e-3),
        (700, 1, 256, 0.0, 20, 3e-3),
        (450, 2, 128, 0.1, 20, 3e-3),
        (1200, 2, 128, 0.1, 15, 3e-3),
        (700, 3, 128, 0.0, 10, 1e-3),
    )
)
"""Finest scale in km, hidden layers and their width, dropout, passes over the training places, learning rate. A SIREN
takes a fifth of the rate: its sines have steeper slopes."""
SIREN_RATE = 1 / 5
SIREN_OMEGA = 10.0
RELEASED: Setting = {"km": "released", "depth": 1, "dropout": 0.5, "epochs": 15}
"""What `tslab.hyperparameters` has no record of; the passes are ours, for all."""

NEIGHBOURS: tuple[Setting, ...] = tuple(
    {"k": k, "power": power}
    for k, power in ((10, 1.0), (5, 1.0), (20, 1.0), (40, 1.0), (10, 2.0), (20, 2.0), (40, 2.0), (10, 0.0))
)
TREES: tuple[Setting, ...] = (
    {},
    *(
        {"early_stopping": False, "max_iter": number, "learning_rate": rate, "max_leaf_nodes": leaves}
        for number, rate, leaves in (
            *((100, 0.1, 15), (300, 0.05, 15), (100, 0.1, 31), (300, 0.05, 31)),
            *((100, 0.05, 63), (50, 0.1, 8), (400, 0.03, 31)),
        )
    ),
)
KRIGING: tuple[Setting, ...] = tuple(
    {"length_km": length, "nugget": nugget}
    for length, nugget in (
        *((300.0, 0.02), (300.0, 0.1), (300.0, 0.3), (1000.0, 0.02)),
        *((1000.0, 0.1), (1000.0, 0.3), (1000.0, 1.0), (3000.0, 0.1)),
    )
)
RESIDUAL_TREES: tuple[Setting, ...] = tuple(
    {**kriging, "max_iter": number, "max_leaf_nodes": leaves}
    for kriging in ({"length_km": 1000.0, "nugget": 0.02}, {"length_km": 1000.0, "nugget": 0.3})
    for number, leaves in ((30, 8), (100, 8), (30, 31), (100, 31))
)

BASELINES: dict[str, tuple[Setting, ...]] = {
    "baseline:mean": ({},),
    "baseline:knn": NEIGHBOURS,
    "baseline:trees": TREES,
    "baseline:kriging": KRIGING,
    "baseline:kriging+trees": RESIDUAL_TREES,
}
"""Row -> its settings, the default of `tslab.fit_baseline` first where it has one. The mean has nothing to choose."""

METHODS: tuple[str, ...] = (*BASELINES, *tslab.ENCODERS)

FULL: tuple[Setting, ...] = tuple(
    dict(zip(("km", "depth", "width", "dropout", "epochs", "lr"), row, strict=True))
    for row in ((250, 2, 256, 0.0, 20, 3e-3), (700, 2, 256, 0.0, 5, 2e-3), (1200, 2, 256, 0.0, 5, 2e-3))
)
"""As `SEARCHED`, for all places: near enough for a finer scale, many enough for fewer passes."""
FULL_ROWS = {"baseline:knn": (1, 4, 5), "baseline:trees": (0, 4, 7), "baseline:kriging": (1, 4, 5)}
FULL_METHODS: tuple[str, ...] = (*FULL_ROWS, "rff", "sphere2vec_sphereC+", "sphere2vec_dfs", "siren_sh")
"""What is also done with all places: four encoders with the three settings of `FULL`, and baselines with three each."""


def settings_of(method: str, *, full: bool = False) -> tuple[Setting, ...]:
    """What a method may choose from: `BUDGET` settings, or one where there is nothing to choose; three with all
    places."""
    if full:
        return tuple(BASELINES[method][i] for i in FULL_ROWS[method]) if method in FULL_ROWS else FULL
    if method in BASELINES:
        return BASELINES[method]
    recorded = hyperparameters("", method, "locbench2024")
    released = RELEASED | {"width": recorded.pop("hidden_dim", 256), "lr": recorded.pop("lr")}
    if method == "wrap":
        released |= {"depth": 4}
    scales_too = {k: v for k, v in recorded.items() if k not in ("batch_size", "epochs", "num_hidden_layers")}
    return (released | scales_too, *SEARCHED)


def fit(method: str, setting: Setting, table: Table, split: str, seed: int) -> Predictor:
    """Fit one setting of a method to the rows of ``table``. ``split`` says which rows kriging leaves out to see its
    residuals: random ones, or blocks."""
    if method == "baseline:mean":
        return MeanLabel(table).predict
    if method == "baseline:knn":
        return NeighborAverage(table, **setting).predict
    if method == "baseline:trees":
        return CoordinateTrees(table, seed=seed, **setting).predict
    if method == "baseline:kriging":
        return LocalKriging(table, **setting).predict
    if method == "baseline:kriging+trees":
        return _fit_residual_trees(setting, table, split, seed)
    return fit_network(method, setting, table, seed)


def _fit_residual_trees(setting: Setting, table: Table, split: str, seed: int) -> Predictor:
    """Kriging, and trees on what it gets wrong at training places that it has not seen."""
    how = {name: setting[name] for name in ("length_km", "nugget")}
    if split == "block":
        fold = block_folds(table.lonlat, 5, size_degrees=BLOCK_DEG, seed=seed)
    else:
        fold = torch.empty(len(table), dtype=torch.long)
        for i, rows in enumerate(random_split(len(table), [0.2] * 5, seed=seed)):
            fold[rows] = i
    residual = table.target.double().clone()
    for i in fold.unique():
        unseen = fold == i
        residual[unseen] -= LocalKriging(table.where(~unseen), **how).predict(table.lonlat[unseen])
    whole = LocalKriging(table, **how)
    options = {name: setting[name] for name in ("max_iter", "max_leaf_nodes")}
    trees = CoordinateTrees(
        Table(lonlat=table.lonlat, target=residual.float()), seed=seed, early_stopping=False, **options
    )
    return lambda lonlat: whole.predict(lonlat) + trees.predict(lonlat)


def fit_network(key: str, setting: Setting, table: Table, seed: int) -> Predictor:
    """Train the encoder ``key`` with the network that belongs to it and one linear output on standardised labels, by
    Adam with a cosine schedule. Positions are encoded once, unless the encoder learns."""
    generator = torch.Generator().manual_seed(seed)
    encoder = tslab.location_encoder(key, **_built(key, setting, table), generator=generator)
    head = nn.Linear(encoder.out_features, 1)
    nn.init.kaiming_uniform_(head.weight, a=5**0.5, generator=generator)
    nn.init.zeros_(head.bias)
    lonlat, label = table.lonlat.float(), table.target.double()
    mean, scale = label.mean(), label.std(correction=0).clamp_min(1e-12)
    target = ((label - mean) / scale).float()
    learns = any(True for _ in encoder.position_encoder.parameters())
    inputs = lonlat if learns else encoder.position_encoder(lonlat)
    network = encoder if learns else encoder.network
    parameters = [*encoder.parameters(), *head.parameters()]
    rate = setting["lr"] * (SIREN_RATE if key == "siren_sh" and setting["km"] != "released" else 1)
    optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
    steps = setting["epochs"] * math.ceil(len(table) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    encoder.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        for _ in range(setting["epochs"]):
            for rows in torch.randperm(len(table), generator=generator).split(BATCH):
                loss = (head(network(inputs[rows]))[:, 0] - target[rows]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    encoder.eval()

    @torch.no_grad()
    def predict(at: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        return head(encoder(at.float()))[:, 0].double() * scale + mean

    return predict


def _built(key: str, setting: Setting, table: Table) -> dict[str, Any]:
    """Arguments of `tslab.location_encoder` for one setting."""
    network = tslab.ENCODERS[key].network
    if network == "residual":  # its width is that of its output
        how = {"embedding_dim": setting["width"], "num_blocks": setting["depth"], "dropout": setting["dropout"]}
    else:
        how = {"embedding_dim": 1, "hidden_dim": setting["width"], "num_hidden_layers": setting["depth"]}
        how |= {"dropout": setting["dropout"]}
    if setting["km"] == "released":
        own = {k: v for k, v in setting.items() if k not in ("km", "width", "depth", "dropout", "epochs", "lr")}
        return how | own
    if network == "siren":
        how |= {"first_omega": SIREN_OMEGA}
    elif network == "ffn":
        how |= {"activation": "gelu"}
    if key == "rbf":
        how |= {"anchors": table.lonlat[:ANCHORS].float()}
    return how | FIXED.get(key, {}) | scales().get((key, setting["km"]), {})


@cache
def scales() -> dict[tuple[str, int], dict[str, Any]]:
    """(encoder, finest scale in km) -> its parameter."""
    table = pd.read_csv(SCALES)
    whole = {"nerf", "siren_sh"}  # octaves and a degree
    return {
        (row.encoder, row.km): {row.parameter: int(row.value) if row.encoder in whole else float(row.value)}
        for row in table.itertuples()
    }


def scales_of() -> set[str]:
    """Encoders whose finest scale can be set."""
    return {encoder for encoder, _ in scales()}
