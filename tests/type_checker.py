"""What `make test-shapes` checks types with: beartype, to which numbers of NumPy are numbers and whole ones real."""

import numpy as np
from beartype import BeartypeConf, BeartypeHintOverrides, beartype

WHOLE = int | np.integer
REAL = float | np.floating | WHOLE
check = beartype(
    conf=BeartypeConf(
        hint_overrides=BeartypeHintOverrides({int: WHOLE, float: REAL, complex: complex | REAL})
    )
)
