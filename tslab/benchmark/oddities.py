"""Oddities of the released code: what is wrong or surprising, what it changes, and what tslab does.

Found by reading the released TorchSpatial repository (commit 9f8d833 and its history), its logs and its checkpoints.
The chapter on the audit groups them by what they change and recomputes the evidence for those that matter.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tslab._files import atomic_write
from tslab.benchmark.recompute import released_samples
from tslab.benchmark.records import find_record

FACTS = "audit_facts.json"

GROUPS: dict[str, str] = {
    "encoder": "changes what an encoder is",
    "training": "changes what is trained",
    "evaluation": "changes what is evaluated and reported",
    "storage": "loses or mixes up what was stored",
    "broken": "stops the code",
}
"""Group -> what its oddities do."""


@dataclass(frozen=True)
class Oddity:
    """One oddity: its group (key of `GROUPS`), where it is, what happens, and what tslab does instead."""

    group: str
    where: str
    what: str
    tslab: str


ODDITIES: tuple[Oddity, ...] = (
    Oddity(
        "encoder",
        "SpatialRelationEncoder.py, tile",
        "The cell size is never passed on; the default covers the whole map with one cell.",
        "Real cells; the single cell only with the preset.",
    ),
    Oddity(
        "encoder",
        "SpatialRelationEncoder.py, dfs and sphereM+",
        "All scales are 1 because they are powers of the largest radius, which is 1: the frequencies are all equal.",
        "Geometric scales; the released ones only with the preset.",
    ),
    Oddity(
        "encoder",
        "utils.get_spa_encoder",
        "NeRF ignores the number of scales and the radii (always 16 octaves); spherical harmonics ignore the degree "
        "(always 8), and what is called Siren has an ordinary network.",
        "Parameters reach the encoder; a real Siren.",
    ),
    Oddity(
        "encoder",
        "module.py",
        "Activation and dropout also on the output layer, against the documentation: embeddings are non-negative.",
        "A plain output layer; the other with the preset.",
    ),
    Oddity(
        "encoder",
        "models.py, regression",
        "The location embedding of a regression passes through the sigmoid that was meant for class probabilities.",
        "No sigmoid; an option.",
    ),
    Oddity(
        "encoder",
        "models.py, SustainBench features",
        "A broadcast sums over the anchors: all columns of the image features are equal, and zero with the kernel "
        "width that is passed.",
        "One column for each anchor.",
    ),
    Oddity(
        "training",
        "losses.py, background points",
        "Points on the sphere are drawn, then overwritten by the raw random numbers: all background points lie in "
        "the north-east quadrant.",
        "Uniform on the sphere; the quadrant with the preset.",
    ),
    Oddity(
        "training",
        "losses.py, other backgrounds",
        "The older backgrounds are uniform in degrees, so that a third of the points lies beyond 60 degrees of "
        "latitude, where an eighth of the sphere is.",
        "Uniform on the sphere by default.",
    ),
    Oddity(
        "training",
        "trainer.py, sample ratio",
        "The default is to train on 1 % of the rows; for regression any ratio below one raises an error.",
        "All rows; a fraction only if you ask for one.",
    ),
    Oddity(
        "training",
        "sampler, fMoW",
        "At most 100 rows of each class in an epoch: 6,200 of 363,571 rows of fMoW.",
        "An option; on with the preset.",
    ),
    Oddity(
        "training",
        "losses.py, log",
        "-log(p + 1e-5) caps the loss and loses the gradient of confident mistakes.",
        "The loss from logits; the cap with the preset.",
    ),
    Oddity(
        "training",
        "everywhere",
        "No random number has a seed.",
        "Everything has one.",
    ),
    Oddity(
        "training",
        "models.py history, fusion",
        "Between 5 and 7 June 2024 the fusion of image and place changed from a product to a concatenation; which "
        "numbers belong to which is not recorded.",
        "Both, by name.",
    ),
    Oddity(
        "training",
        "trainer_helper.py, last batch",
        "Indices assume full batches; a last batch of one row loses its dimension.",
        "Ordinary indexing.",
    ),
    Oddity(
        "evaluation",
        "process_result.py, run scripts",
        "Hyper-parameters and runs are chosen by accuracy on the split that is reported.",
        "Choice on validation rows; the test split once.",
    ),
    Oddity(
        "evaluation",
        "datasets.py, MOSAIKS draws",
        "Every load keeps an unseeded 5 % of training and test rows; the argument for it is ignored.",
        "The whole split; a seeded fraction if you ask for one.",
    ),
    Oddity(
        "evaluation",
        "MOSAIKS labels",
        "Population, forest cover and nightlights are stored as logarithms; the documentation says so for one.",
        "Label unit and transform are part of the task.",
    ),
    Oddity(
        "evaluation",
        "trainer.py, map range",
        "The default range of the map is a box around the United States, but models were trained with the globe: a "
        "reloaded rff evaluates other places.",
        "The extent is stored with the weights.",
    ),
    Oddity(
        "evaluation",
        "eval_helper.py, relative error",
        "The stored relative error divides by the label and explodes at zero.",
        "Absolute errors.",
    ),
    Oddity(
        "evaluation",
        "eval_helper.py, ties",
        "Ranks come from an unstable sort; sparse image predictions hold exact zeros, so true classes tie.",
        "Ties count half.",
    ),
    Oddity(
        "evaluation",
        "eval_helper.py, loop",
        "Each row is scored twice, in a Python loop.",
        "In batches, once.",
    ),
    Oddity(
        "evaluation",
        "trainer.py, evaluation frequency",
        "The default evaluates only every 100 epochs, and on the test split.",
        "On validation rows, when early stopping asks for it.",
    ),
    Oddity(
        "storage",
        "trainer.py, rbf anchors",
        "Anchors are drawn at every start and stored where loading does not look: a reloaded rbf has other anchors.",
        "Anchors are part of the weights.",
    ),
    Oddity(
        "storage",
        "trainer.py, regression checkpoint",
        "Only the location encoder is stored; the image network and the head are lost.",
        "The whole model.",
    ),
    Oddity(
        "storage",
        "trainer.py, saving",
        "A run that only evaluates overwrites the checkpoint, with its own parameters.",
        "A run's folder is written once.",
    ),
    Oddity(
        "storage",
        "trainer.py, sample indices",
        "Fixed sample indices are looked for under one name and written to another, so they are never used again.",
        "Seeds are stored with the run.",
    ),
    Oddity(
        "storage",
        "eval_helper.py, wrap",
        "Files of wrap hold sines where the others hold degrees.",
        "Always degrees; released files are joined and checked.",
    ),
    Oddity(
        "storage",
        "eval_helper.py, missing places",
        "wrap is missing from the branch that treats rows without a location.",
        "One mask for all encoders.",
    ),
    Oddity(
        "storage",
        "eval_results/",
        "One file is empty, the iNat2017 files of all encoders and everything of SustainBench are missing, nightlights "
        "files are copies by name.",
        "Each case is named when you ask for it.",
    ),
    Oddity(
        "broken",
        "trainer.py, imports",
        "Imports a module that was deleted: the trainer does not start.",
        "Not needed.",
    ),
    Oddity(
        "broken",
        "datasets.py, SustainBench",
        "An undefined variable stops every load.",
        "Loads.",
    ),
    Oddity(
        "broken",
        "models.py and trainer.py, SustainBench",
        "Four of six tasks have no head, and the options for the feature encoder are never read.",
        "One head for all.",
    ),
    Oddity(
        "broken",
        "datasets.py, optional predictions",
        "Predictions that are switched off or missing leave a variable undefined; old NumPy names.",
        "Optional fields are optional.",
    ),
    Oddity(
        "broken",
        "trainer.py, image only",
        "No model and no optimiser without an encoder: the published image-only regression rows cannot be run.",
        "fusion='none', or encoder 'no_prior'.",
    ),
    Oddity(
        "broken",
        "trainer.py and eval_helper.py, environment",
        "An ocean mask must be there although nothing is drawn; an argument that scikit-learn has removed.",
        "No such files or arguments.",
    ),
)
"""The oddities, by group."""


def oddity_table() -> pd.DataFrame:
    """The oddities as a table: effect (what the group changes), where, what, tslab."""
    rows = [(GROUPS[o.group], o.where, o.what, o.tslab) for o in ODDITIES]
    return pd.DataFrame(rows, columns=["effect", "where", "what", "tslab"])


def compute_facts(root: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Evidence from the released regression files: labels and draws.

    Returns:
        task -> n, label minimum, maximum and share of zeros, and the share of places that the files of two encoders
        (xyz and nerf) have in common.
    """
    facts: dict[str, Any] = {}
    for task in ("population", "forest_cover", "nightlights", "elevation"):
        first, second = (released_samples(f"mosaiks_{task}", encoder, root)[0] for encoder in ("xyz", "nerf"))
        label = first["label"].to_numpy()
        places = [set(map(tuple, np.round(table[["lon", "lat"]].to_numpy(), 4))) for table in (first, second)]
        facts[f"mosaiks_{task}"] = {
            "n": len(first),
            "label_min": round(float(label.min()), 4),
            "label_max": round(float(label.max()), 4),
            "zeros": round(float((label == 0).mean()), 4),
            "common_places": round(len(places[0] & places[1]) / len(places[0]), 4),
        }
    return facts


def write_facts(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> None:
    """Compute the facts and write their record."""
    atomic_write(path, json.dumps(compute_facts(root), indent=1) + "\n")


def read_facts() -> dict[str, Any]:
    """The committed record of `compute_facts`."""
    facts: dict[str, Any] = json.loads(Path(find_record(FACTS)).read_text(encoding="utf-8"))
    return facts
