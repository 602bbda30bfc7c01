"""The compiled solver, in the build with the widest vector instructions that this processor has.

QP_CONTROL_KERNELS=generic (or avx2, avx512) chooses another build, for comparisons.
"""

from __future__ import annotations

import importlib
import os

from qp_control._cpu import usable_kernels


def _choose() -> str:
    usable = usable_kernels()
    wanted = os.environ.get("QP_CONTROL_KERNELS", usable[0])
    if wanted not in usable:
        raise ImportError(f"QP_CONTROL_KERNELS is {wanted!r}, this processor has: {', '.join(usable)}")
    return wanted


kernels = _choose()
_module = importlib.import_module(f"qp_control._solver_{kernels}")


def __getattr__(name: str) -> object:
    return getattr(_module, name)
