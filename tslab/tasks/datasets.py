"""What is known about a task beyond its rows, and the seventeen datasets of LocBench: what each one is, how large,
under which terms, and from where.

The datasets are facts only, read from ``data/datasets.json``. Row counts are those of the release; where the release
was not at hand they were inferred from its training logs and per-sample results, and where they are unknown they are
None. tslab ships none of these data: it reads them (`tslab.tasks.locbench`), and it generates stand-ins of the same
shape (`tslab.synthetic`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from jaxtyping import Float
from torch import Tensor

from tslab._checks import check_choice
from tslab._files import packaged_json
from tslab.tasks.columns import TaskKind

Scale = Literal["tiny", "small", "full"]
SCALES: tuple[Scale, ...] = ("tiny", "small", "full")
"""Sizes of generated data: for tests, for a laptop, and that of the release."""

ImageKind = Literal["probs", "feats", "scalar", "none"]


@dataclass(frozen=True, repr=False)
class TaskMeta:
    """What is known about a task beyond its rows.

    Attributes:
        kind: ``classification`` or ``regression``.
        classes: class names, in the order of the targets; empty for regression.
        groups: names of the group numbers, where they have any.
        label_name, label_unit, label_transform: what the target is; the transform that was applied to the unit.
        image_kind: ``probs`` (class probabilities of an image model), ``feats`` (features), ``scalar`` or ``none``.
        image_model: where the image input comes from.
        eval_split: what the source calls the split that is in ``Task.test``.
        licence, citation: of the data.
        synthetic: True for generated data.
        source: ``synthetic``, ``locbench``, ``released``, ``native`` or ``earth``.
        scale, seed, generator_version: of generated data.
        ceiling: the best any model can do, where it is known (synthetic data): for classification ``location_top1``,
            ``image_top1``, ``both_top1``, for regression ``location_r2`` and others; fractions.
        notes: sentences on everything a reader should know.
    """

    kind: TaskKind
    classes: Sequence[str] = ()
    groups: Sequence[str] = ()
    label_name: str = "class"
    label_unit: str = ""
    label_transform: str = "none"
    image_kind: ImageKind = "none"
    image_model: str = ""
    eval_split: str = "test"
    licence: str = ""
    citation: str = ""
    synthetic: bool = False
    source: str = ""
    scale: str = ""
    seed: int | None = None
    generator_version: str = ""
    ceiling: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(TaskKind))
        check_choice("image_kind", self.image_kind, get_args(ImageKind))
        for name in ("classes", "groups", "notes"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a sequence of names, got the text {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return len(self.classes)

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "classes" and getattr(self, f.name)}
        if self.classes:
            shown["classes"] = f"{self.num_classes} names"
        return f"TaskMeta({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


Truth: TypeAlias = Callable[[Float[Tensor, "n 2"]], Tensor]
"""What generated data know about themselves: the best prediction from the location alone.

Called with (n, 2) degrees it returns P(class | location), (n, classes), or E[target | location], (n,).
"""


DOI = "10.6084/m9.figshare.26026798"
"""Where the LocBench archives are published (figshare)."""

LOCBENCH_CITATION = (
    "Wu et al., TorchSpatial: A Location Encoding Framework and Benchmark for Spatial Representation Learning, "
    "NeurIPS 2024 (arXiv:2406.15658)"
)

TORCHSPATIAL_TERMS = "CC BY-NC 4.0 by the TorchSpatial authors where no upstream terms apply; upstream terms prevail"


@dataclass(frozen=True)
class SplitFacts:
    """Published facts about one split: rows that have an image, rows without coordinates, rows the benchmark keeps.

    ``kept`` counts rows with a location, a user and (birds) a date: what the reference trains on.
    """

    rows: int | None = None
    missing: int | None = None
    kept: int | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset of the benchmark.

    Attributes:
        key, title: how tslab and how the paper call it.
        kind: classification or regression.
        family: which reader reads it: birds, inat, fmow, yfcc, mosaiks or dhs.
        folder: its folder in the archive.
        eval_split: what the release calls the rows it scores (the other names are the release's, too).
        splits: release name of a split -> published facts.
        num_classes: classes, 0 for regression.
        total_rows: rows of all splits together, where the splits are not known one by one.
        released_places: places with labels in the complete released results, see `tslab.tasks.loading`.
        label_name, label_unit, label_transform: what is predicted.
        lat_quantiles: 1, 50 and 99 % quantile of the latitude of the evaluated rows, degrees.
        no_prior: published scores without location: top1, and where measured top3, top10, mrr; or r2. Fractions.
        licence, upstream, citation: terms and origin.
    """

    key: str
    title: str
    kind: TaskKind
    family: str
    folder: str
    eval_split: str
    splits: Mapping[str, SplitFacts]
    num_classes: int = 0
    total_rows: int | None = None
    released_places: int | None = None
    label_name: str = "species"
    label_unit: str = ""
    label_transform: str = "none"
    lat_quantiles: Sequence[float] | None = None
    no_prior: Mapping[str, float] = field(default_factory=dict)
    licence: str = ""
    upstream: str = ""
    citation: str = ""

    @property
    def train_split(self) -> str:
        """What the release calls the rows to train on."""
        return next(iter(self.splits))

    @property
    def val_split(self) -> str | None:
        """What the release calls its validation rows; None where it has none besides the evaluated ones."""
        others = [name for name in self.splits if name not in (self.train_split, self.eval_split)]
        return others[0] if others else None

    def task_meta(self, source: str, **facts: Any) -> TaskMeta:
        """What a task of this dataset says of itself: its label and whom to cite, and ``facts``."""
        own = {name: getattr(self, name) for name in ("kind", "label_name", "label_unit", "label_transform")}
        return TaskMeta(**own, citation=f"{LOCBENCH_CITATION}; {self.citation}", source=source, **facts)


def _read() -> dict[str, DatasetInfo]:
    """The datasets; what all of a family have in common stands there once."""
    stored = packaged_json("datasets.json")
    infos = {}
    for key, facts in stored["datasets"].items():
        known = stored["families"].get(facts["family"], {}) | facts
        known["splits"] = {split: SplitFacts(**counts) for split, counts in known["splits"].items()}
        infos[key] = DatasetInfo(key=key, **known)
    return infos


DATASETS: dict[str, DatasetInfo] = _read()
"""Key -> `DatasetInfo`, in the order of the published tables."""


STRESS_TASKS = ("stress_classes", "stress_field")
"""Names of generated tasks at the date line and the poles, which the datasets hardly touch."""


def dataset_info(key: str) -> DatasetInfo:
    """Facts about one dataset.

    Raises:
        ValueError: unknown key; lists the known ones.
    """
    if key not in DATASETS:
        raise ValueError(f"no dataset {key!r} in LocBench; use one of {', '.join(DATASETS)}")
    return DATASETS[key]
