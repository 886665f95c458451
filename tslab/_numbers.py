"""What functions take in place of a tensor, by position. Apart from `tslab._checks`, because it needs pandas."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import pandas as pd
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[Any] | pd.Series | pd.DataFrame | Sequence[Any]
