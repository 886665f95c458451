"""What `make test-shapes` checks types with: beartype, to which numbers of NumPy are numbers and whole ones real."""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

WHOLE = int | np.integer
REAL = float | np.floating | WHOLE
check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({int: WHOLE, float: REAL, complex: complex | REAL})))
