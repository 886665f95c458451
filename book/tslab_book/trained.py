"""Small trained models whose predictions the laboratory shows.

One location classifier for each built-in encoder, trained in about a second on the synthetic species of
`tslab.synthetic.toy` with the same network, the same rows and the same seed, so that two maps differ by the
encoder alone. The position encoder has the parameters that the explorer's sliders start from. Training is
repeated wherever the models are needed, in the kernel and when `tslab_book.widget_graphs` writes them as graphs;
nothing is stored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab.models import LocationClassifier
from tslab.synthetic.toy import RANGES, sphere_toy
from tslab.tasks.task import Task
from tslab.training import train
from tslab.widgets.parametric import BLOCK_ROWS, CONTROLS, controls

SPECIES = tuple(RANGES)
"""Names of the synthetic species, in the order of the columns of a prediction."""

TRAINING: dict[str, Any] = {"seed": 0, "epochs": 12, "batch_size": 256, "lr": 5e-3, "embedding_dim": 32}
"""How every model is trained; the network behind the encoder has one hidden layer of `HIDDEN`."""

HIDDEN = 64

SIGHTINGS_SHOWN = 60
"""Training places of each species that the front end marks on its maps."""


@cache
def task() -> Task:
    """The synthetic task that the models are trained on."""
    return sphere_toy()


@cache
def trained_classifier(key: str) -> LocationClassifier:
    """The classifier with encoder ``key``, trained here and now, on one thread so that it is the same each time.

    Raises:
        KeyError: the explorer has no such built-in encoder.
    """
    if key not in CONTROLS:
        raise KeyError(f"no model is trained with the encoder {key!r}; choose one of {', '.join(CONTROLS)}")
    counts = {p.name for p in controls(key).parameters if p.kind == "count"}
    options: dict[str, Any] = {"num_blocks": 2} if key == "wrap" else {"hidden_dim": HIDDEN}
    if key == "tile":
        options["num_features"] = 32
    options |= {name: int(v) if name in counts else v for name, v in controls(key).defaults.items()}
    with _one_thread():
        run = train(task(), key, device="cpu", compile=False, progress=False, **TRAINING, **options)
    model = run.model
    assert isinstance(model, LocationClassifier)
    return model.eval().requires_grad_(False)


class Presence(nn.Module):
    """P(species is here | place) of one trained classifier: places (n, 2) float64 to (n, 12) float32."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.model = trained_classifier(key)

    def forward(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        return torch.sigmoid(self.model(lonlat))

    @torch.no_grad()
    def predict(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        """The same, block by block."""
        return torch.cat([self(block) for block in lonlat.double().split(BLOCK_ROWS)])


@cache
def top1(key: str) -> float:
    """Share of the held-out sightings whose species the classifier ranks first."""
    test = task().test
    found = Presence(key).predict(test.lonlat).argmax(dim=-1)
    return float((found == test.target).double().mean())


def column_of(species: str) -> int:
    """Column of a prediction that belongs to a species.

    Raises:
        ValueError: an unknown species.
    """
    if species not in SPECIES:
        raise ValueError(f"species must be one of {', '.join(SPECIES)}, got {species!r}")
    return SPECIES.index(species)


@cache
def described() -> dict[str, Any]:
    """What the front end says about the models: species, some of the sightings, the size of the task.

    ``sightings`` holds for each species longitudes and latitudes in turn, rounded to tenths of a degree.
    """
    rows = task().train
    marked = [rows.lonlat[rows.target == c][:SIGHTINGS_SHOWN] for c in range(len(SPECIES))]
    return {
        "species": list(SPECIES),
        "sightings": [[round(v, 1) for v in places.flatten().tolist()] for places in marked],
        "rows": len(rows),
        "ceiling": task().meta.ceiling["location_top1"],
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in a fixed order: the number of threads would change the last digits, and training enlarges them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
