"""The type of the state that an engine stores at a resume point: one definition for engines and models."""

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[np.generic] | int | float | str | bool]
"""Arrays and plain values by name, which are stored without pickle."""
