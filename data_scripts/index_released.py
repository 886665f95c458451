"""Rebuild ``tslab/data/released_files.csv`` (path, size and SHA-256 of every released file) from a copy of
the release.

    python data_scripts/index_released.py /path/to/TorchSpatial

Only needed when the release changes. The table holds facts about the files, nothing of their content.
"""

import argparse
import hashlib
import re
from pathlib import Path

import pandas as pd

from tslab._files import atomic_path
from tslab.released_files import DATASET_TOKENS, ENCODER_TOKENS

TABLE = Path(__file__).resolve().parents[1] / "tslab" / "data" / "released_files.csv"


def main() -> None:
    """Index the folder given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="copy of the repository (holds eval_results/)")
    root = parser.parse_args().root
    results = sorted(root.glob("eval_results/*/eval_*.csv"))
    checkpoints = sorted(root.glob("pre_trained_models/*/*.pth.tar"))
    rows = [row(path, root) for path in (*results, *checkpoints)]
    if not rows:
        raise SystemExit(f"{root} holds no released files")
    with atomic_path(TABLE) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")
    print(f"{TABLE}: {len(results)} result files, {len(checkpoints)} checkpoints")


def row(path: Path, root: Path) -> dict[str, object]:
    """One line of the table."""
    kind = "checkpoint" if path.name.endswith(".pth.tar") else path.parent.name
    dataset, encoder = keys(path.name, checkpoint=kind == "checkpoint")
    content = path.read_bytes()
    return {
        "kind": kind,
        "dataset": dataset,
        "encoder": encoder,
        "path": path.relative_to(root).as_posix(),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def keys(name: str, *, checkpoint: bool) -> tuple[str, str]:
    """Dataset and encoder key of a file name such as ``eval_yfcc__test_NeRF.csv``."""
    datasets = {
        re.sub(r"_*(test|val)$", "", token) if checkpoint else token: key for key, token in DATASET_TOKENS.items()
    }
    encoders = {token: key for key, token in ENCODER_TOKENS.items()}
    name = name.removeprefix("model_" if checkpoint else "eval_").removesuffix(".csv").removesuffix(" copy")
    for token, dataset in datasets.items():
        if name.startswith(f"{token}_"):
            rest = name.removeprefix(f"{token}_").removesuffix("_regress")
            for encoder_token in sorted(encoders, key=len, reverse=True):
                if rest == encoder_token or (checkpoint and rest.startswith(f"{encoder_token}_")):
                    return dataset, encoders[encoder_token]
    raise ValueError(f"cannot tell dataset and encoder of {name!r}")


if __name__ == "__main__":
    main()
