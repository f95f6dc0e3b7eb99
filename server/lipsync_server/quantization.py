"""The number format of linear layers' weights: one type for files, settings, memory plans and layers. Imports no torch.

"none" is 16 bits a weight (bfloat16), "fp8" and "int8" are 8 bits with one scale for each output row
(models/kernels/rounding.py explains both).
"""

from typing import Literal

Quantization = Literal["none", "fp8", "int8"]
EightBit = Literal["fp8", "int8"]
"""The formats of Quantization that round to 8 bits."""
