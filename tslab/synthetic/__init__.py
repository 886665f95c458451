"""Generated tasks with a known truth: stand-ins of the seventeen datasets, two stress tests, and the smallest task.

`tslab.load_task` is the way in. A stand-in has the schema of its dataset, its geography, its gaps, its class
frequencies or label distribution, and an image input about as good as the published one; so code that runs on it runs
on the released data. It has no images, no species and no people: results on it say nothing about the world. What it has
that the real data have not is a known truth, ``task.truth``, and known limits, ``task.meta.ceiling``.

The world is `tslab.synthetic.world`, what distinguishes the datasets `tslab.synthetic.specs`; how tables are made is in
`tslab.synthetic.classes` and `tslab.synthetic.values`, and `tslab.synthetic.toy` has the tasks that stand in for none.
"""

from typing import Literal

from tslab._checks import check_choice, check_count
from tslab.synthetic.classes import class_task
from tslab.synthetic.specs import CLASS_SPECS, VALUE_SPECS, ClassSpec, ValueSpec
from tslab.synthetic.toy import sphere_toy, stress_classes, stress_field
from tslab.synthetic.values import value_task
from tslab.tasks.datasets import DATASETS, SCALES, STRESS_TASKS, Scale
from tslab.tasks.task import Task

__all__ = ["CLASS_SPECS", "VALUE_SPECS", "ClassSpec", "ValueSpec", "sphere_toy", "synthetic_task"]


def synthetic_task(
    name: str, scale: Scale = "small", seed: int = 0, *, split: Literal["source", "random"] = "source"
) -> Task:
    """A synthetic stand-in, or a stress test.

    The same (``meta.generator_version``, name, scale, seed) gives the same rows. ``task.meta.ceiling`` holds what is
    known to be possible, as fractions. Classification, measured over the test rows:

        location_top1: best accuracy from the location alone, over rows that have one;
        image_top1: accuracy of the image model as it is;
        product_top1: accuracy of its predictions times the true P(class | location), the benchmark's way to combine
            them;
        both_top1: best accuracy from image and location, by Bayes' rule.

    Regression: ``location_r2``, ``image_r2`` (linear in the image's scores), ``both_r2``, over the law of the data.

    Args:
        name: a LocBench dataset, ``stress_classes`` or ``stress_field``.
        scale: ``tiny`` (about a thousand rows), ``small`` (about ten thousand), ``full`` (the released counts).
        seed: of the whole world.
        split: ``random`` ignores countries when it splits SustainBench stand-ins; the source's split keeps them whole.

    Raises:
        ValueError: a name, scale or split that is not known, a negative seed.
    """
    check_choice("name", name, (*DATASETS, *STRESS_TASKS))
    check_choice("scale", scale, SCALES)
    check_count("seed", seed, at_least=0)
    check_choice("split", split, ("source", "random"))
    if name == "stress_classes":
        return stress_classes(scale, seed)
    if name == "stress_field":
        return stress_field(scale, seed)
    if name in CLASS_SPECS:
        return class_task(name, scale, seed)
    task = value_task(name, scale, seed)
    return task.resplit(seed=seed) if split == "random" else task
