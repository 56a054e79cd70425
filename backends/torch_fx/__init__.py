"""Lowering to torch.fx."""

from __future__ import annotations

from irgrow.backends.torch_fx.lowering import lower, module_path, param_path

__all__ = ["lower", "module_path", "param_path"]
