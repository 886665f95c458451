"""Table 1 of TorchSpatial: Top-1 accuracy, published and recomputed, and how large a difference has to be.

The cells are those of the record of the audit (`tslab.benchmark.cells`); the chapter on Table 1 discusses them.
"""

import math
import os
from collections.abc import Sequence

from tslab._checks import check_count, check_number
from tslab_book.reproduction import Reproduction, reproduce


def table1(
    datasets: Sequence[str] | None = None,
    encoders: Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Reproduction:
    """The cells of Table 1, recomputed if the released files are on this machine, else from the committed record.

    Top-1 is 100 times the share of evaluated images whose true class is ranked first, over all rows of the
    released file, with and without location.

    Args:
        datasets: classification dataset keys, all seven if None.
        encoders: rows of the table (`tslab.published.ENCODER_ROWS`), all seventeen if None.
        root: where the released files are, see `tslab.load_released_results`.

    Raises:
        ValueError: unknown dataset or encoder, or a released file is damaged.
        ReleasedFilesMissingError: ``root`` names a folder without released files.
    """
    return reproduce("top1", datasets=datasets, encoders=encoders, data_root=root)


def standard_error(top1: float, n: int) -> float:
    """Standard error in points of a Top-1 accuracy (percent) over n images: 100 sqrt(p (1 - p) / n).

    How far the number would move, typically, had another n images of the same kind been drawn.
    """
    share = check_number("top1", top1, at_least=0, at_most=100) / 100
    check_count("n", n)
    return 100 * math.sqrt(share * (1 - share) / n)
