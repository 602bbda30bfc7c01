"""The compiled solver, in the build with the widest vector instructions that this processor has.

QP_CONTROL_KERNELS=generic (or avx2, avx512) chooses another build, for comparisons.
"""

from __future__ import annotations

import importlib
import importlib.util
import os

from qp_control._cpu import usable_kernels

# What was built with QP_CONTROL_NATIVE on another processor may lack the best one for this.
available = [name for name in usable_kernels() if importlib.util.find_spec(f"qp_control._solver_{name}")]


def _choose() -> str:
    wanted = os.environ.get("QP_CONTROL_KERNELS", available[0])
    if wanted not in available:
        raise ImportError(f"QP_CONTROL_KERNELS is {wanted!r}, this processor has: {', '.join(available)}")
    return wanted


kernels = _choose()
_module = importlib.import_module(f"qp_control._solver_{kernels}")


def __getattr__(name: str) -> object:
    return getattr(_module, name)
