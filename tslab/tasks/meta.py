"""What is known about a task beyond its rows, and what generated tasks know about themselves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias, get_args

from jaxtyping import Float
from torch import Tensor

from tslab._checks import check_choice
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
