"""Shape annotations: those of jaxtyping where it is installed (tests), else plain array types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

__all__ = ["Float", "Float64", "Int64"]
