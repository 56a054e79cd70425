"""Arrays of numbers, and annotations of shapes: those of jaxtyping where it is installed (tests), else plain types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64
else:
    try:
        from jaxtyping import Float, Float64, Int64
    except ImportError:

        class _Plain:
            """Stands for an annotation that says nothing about the shape."""

            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Float = Float64 = Int64 = _Plain

__all__ = ["Array", "Float", "Float64", "Int64", "as_array"]

Array = NDArray[np.float64]


def as_array(value: Any) -> Array:
    """Return numbers from NumPy or torch as a float64 array."""
    detached = value.detach().cpu().double().numpy() if hasattr(value, "detach") else value
    return np.asarray(detached, dtype=np.float64)
