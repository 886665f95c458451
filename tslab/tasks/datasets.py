"""The seventeen datasets of LocBench: what each one is, how large, under which terms, and from where.

Facts only. Row counts are those of the release; where the release was not at hand they were inferred from its training
logs and per-sample results, and where they are unknown they are None. tslab ships none of these data: it reads them
(`tslab.tasks.locbench`), and it generates stand-ins of the same shape (`tslab.tasks.synthetic`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tslab.tasks.task import TaskKind

DOI = "10.6084/m9.figshare.26026798"
"""Where the LocBench archives are published (figshare)."""

LOCBENCH_CITATION = (
    "Wu et al., TorchSpatial: A Location Encoding Framework and Benchmark for Spatial Representation Learning, "
    "NeurIPS 2024 (arXiv:2406.15658)"
)

TORCHSPATIAL_TERMS = (
    "CC BY-NC 4.0 by the TorchSpatial authors where no upstream terms apply; upstream terms prevail"
)


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
    label_name: str = "species"
    label_unit: str = ""
    label_transform: str = "none"
    lat_quantiles: tuple[float, float, float] | None = None
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


_BIRD_TERMS = "research use (BirdSnap, NABirds and eBird terms); TorchSpatial additions CC BY-NC 4.0"
_INAT_TERMS = "images under the licence their photographers chose, competition data for research use"
_GEO_PRIOR = (
    "Mac Aodha et al., Presence-only geographical priors for fine-grained image classification, ICCV 2019"
)
_MOSAIKS = (
    "Rolf et al., A generalizable and accessible approach to machine learning with global satellite imagery, "
    "Nature Communications 2021"
)
_SUSTAINBENCH = "Yeh et al., SustainBench, NeurIPS Datasets and Benchmarks 2021"
_MOSAIKS_LICENCE = "mixed: GPW population CC BY 4.0, other labels free to use, imagery not redistributable"
_DHS_LICENCE = "CC BY-SA 4.0 (SustainBench); derived from DHS microdata, whose terms restrict redistribution"


def _birds(key: str, title: str, folder: str, meta: str, **facts: object) -> DatasetInfo:
    return DatasetInfo(
        key=key,
        title=title,
        kind="classification",
        family="birds",
        folder=folder,
        eval_split="test",
        label_name=f"bird species ({meta})",
        licence=_BIRD_TERMS,
        citation=_GEO_PRIOR,
        **facts,  # type: ignore[arg-type]
    )


def _mosaiks(label: str, rows: int, unit: str, transform: str, r2: float) -> DatasetInfo:
    return DatasetInfo(
        key=f"mosaiks_{label}",
        title=f"MOSAIKS {label.replace('_', ' ')}",
        kind="regression",
        family="mosaiks",
        folder="mosaiks",
        eval_split="test",
        splits={"train": SplitFacts(missing=0), "test": SplitFacts(missing=0)},
        total_rows=rows,
        label_name=label.replace("_", " "),
        label_unit=unit,
        label_transform=transform,
        no_prior={"r2": r2},
        licence=_MOSAIKS_LICENCE,
        upstream="https://doi.org/10.24433/CO.8021636.v2",
        citation=_MOSAIKS,
    )


def _dhs(label: str, name: str, r2: float) -> DatasetInfo:
    return DatasetInfo(
        key=f"sustainbench_{label}",
        title=f"SustainBench {name}",
        kind="regression",
        family="dhs",
        folder="sustainbench",
        eval_split="test",
        splits={"trainval": SplitFacts(), "test": SplitFacts()},
        label_name=name,
        label_transform="normalised (formula not published)",
        no_prior={"r2": r2},
        licence=_DHS_LICENCE,
        upstream="https://sustainlab-group.github.io/sustainbench",
        citation=_SUSTAINBENCH,
    )


_BIRDSNAP_NO_PRIOR = {"top1": 0.7007, "top3": 0.8660, "top10": 0.9288, "mrr": 0.790}

DATASETS: dict[str, DatasetInfo] = {
    info.key: info
    for info in (
        _birds(
            "birdsnap",
            "BirdSnap",
            "birdsnap",
            "photographs' own metadata",
            num_classes=500,
            splits={
                "train": SplitFacts(43_426, None, 19_133),
                "val": SplitFacts(kept=443),
                "test": SplitFacts(2_262, 1_446),
            },
            lat_quantiles=(-20, 39, 65),
            no_prior=_BIRDSNAP_NO_PRIOR,
            upstream="https://homepages.inf.ed.ac.uk/omacaod/projects/geopriors",
        ),
        _birds(
            "birdsnap_ebird",
            "BirdSnap†",
            "birdsnap",
            "metadata simulated from eBird",
            num_classes=500,
            splits={
                "train": SplitFacts(43_426, None, 42_490),
                "val": SplitFacts(kept=980),
                "test": SplitFacts(2_262, 45),
            },
            lat_quantiles=(-1, 39, 61),
            no_prior=_BIRDSNAP_NO_PRIOR,
            upstream="https://homepages.inf.ed.ac.uk/omacaod/projects/geopriors",
        ),
        _birds(
            "nabirds",
            "NABirds†",
            "nabirds",
            "metadata simulated from eBird",
            num_classes=555,
            splits={
                "train": SplitFacts(kept=22_599),
                "val": SplitFacts(kept=1_100),
                "test": SplitFacts(24_633, 222),
            },
            lat_quantiles=(11, 40, 57),
            no_prior={"top1": 0.7608, "top3": 0.9098, "top10": 0.9683, "mrr": 0.841},
            upstream="https://dl.allaboutbirds.org/nabirds",
        ),
        DatasetInfo(
            key="inat2017",
            title="iNat2017",
            kind="classification",
            family="inat",
            folder="inat_2017",
            eval_split="val",
            num_classes=5089,
            splits={"train": SplitFacts(579_184, None, 569_465), "val": SplitFacts(95_986, 2_364, 93_622)},
            lat_quantiles=None,
            no_prior={"top1": 0.6327, "top3": 0.7982, "top10": 0.8899, "mrr": 0.728},
            licence=_INAT_TERMS,
            upstream="https://github.com/visipedia/inat_comp/tree/master/2017",
            citation="Van Horn et al., The iNaturalist species classification and detection dataset, CVPR 2018",
        ),
        DatasetInfo(
            key="inat2018",
            title="iNat2018",
            kind="classification",
            family="inat",
            folder="inat_2018",
            eval_split="val",
            num_classes=8142,
            splits={"train": SplitFacts(437_513, None, 436_063), "val": SplitFacts(24_426, 83, 24_343)},
            lat_quantiles=(-45, 33, 57),
            no_prior={"top1": 0.6020, "top3": 0.7790, "top10": 0.8850, "mrr": 0.705},
            licence=_INAT_TERMS,
            upstream="https://github.com/visipedia/inat_comp/tree/master/2018",
            citation="Van Horn et al., The iNaturalist species classification and detection dataset, CVPR 2018",
        ),
        DatasetInfo(
            key="yfcc",
            title="YFCC",
            kind="classification",
            family="yfcc",
            folder="yfcc",
            eval_split="test",
            num_classes=100,
            splits={
                "train": SplitFacts(66_739, 0),
                "val": SplitFacts(4_449, 0),
                "test": SplitFacts(17_798, 0),
            },
            label_name="photograph's subject",
            lat_quantiles=(21, 39, 48),
            no_prior={"top1": 0.5015, "top3": 0.7390, "top10": 0.9106, "mrr": 0.644},
            licence="photographs under the Flickr Creative Commons licence their owners chose",
            upstream="https://sites.google.com/site/locationcontext",
            citation="Tang et al., Improving image classification with location context, ICCV 2015",
        ),
        DatasetInfo(
            key="fmow",
            title="fMoW",
            kind="classification",
            family="fmow",
            folder="fmow",
            eval_split="val",
            num_classes=62,
            splits={"train": SplitFacts(363_571, 0), "val": SplitFacts(53_041, 0)},
            label_name="land use",
            lat_quantiles=(-38, 39, 60),
            no_prior={"top1": 0.6983, "top3": 0.8461, "top10": 0.9429, "mrr": 0.785},
            licence="fMoW public licence",
            upstream="https://github.com/fMoW/dataset",
            citation="Christie et al., Functional map of the world, CVPR 2018",
        ),
        _mosaiks("population", 425_637, "people per km²", "ln(1 + x)", 0.38),
        _mosaiks("forest_cover", 498_106, "% tree cover", "ln(1 + x)", 0.52),
        _mosaiks("nightlights", 492_226, "nW cm⁻² sr⁻¹", "ln(1 + x)", 0.33),
        _mosaiks("elevation", 498_115, "m", "none", 0.27),
        _dhs("asset_index", "asset index", 0.40),
        _dhs("women_bmi", "women's body mass index", 0.27),
        _dhs("water_index", "water index", 0.26),
        _dhs("under5_mort", "child mortality under five", 0.02),
        _dhs("sanitation_index", "sanitation index", 0.33),
        _dhs("women_edu", "women's education", 0.22),
    )
}
"""Key -> `DatasetInfo`, in the order of the published tables."""


def dataset_info(key: str) -> DatasetInfo:
    """Facts about one dataset.

    Raises:
        ValueError: unknown key; lists the known ones.
    """
    if key not in DATASETS:
        raise ValueError(f"no dataset {key!r} in LocBench; use one of {', '.join(DATASETS)}")
    return DATASETS[key]
