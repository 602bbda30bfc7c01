"""Derivatives beyond a backward pass: certificates, kinks, a Jacobian for every element, second derivatives.

The projection of a point p onto the half-plane a'x <= 1,   min 1/2 |x|^2 - p'x  s.t.  a'x <= 1:   x = p inside,
x = p - a (a'p - 1) / a'a outside, with a kink on the line.
"""

import numpy as np
import torch
from torch.func import jacrev, vmap

import qp_control as qc

np.set_printoptions(precision=4, suppress=True)

# Gradients of x1 with respect to p = -g on NumPy arrays, with a certificate: how accurate, and is there only one?
for where, p in {"inside": [0.2, 0.2], "outside": [2.0, 1.0], "on the line": [0.5, 0.5]}.items():
    qp = {"H": np.eye(2), "g": -np.array(p), "C": [[1.0, 1.0]], "u": [1.0]}
    solution = qc.solve_qp(**qp)
    for choice in ("least_squares", "one_sided", "smoothed"):
        found = qc.qp_adjoint(**qp, solution=solution, x=[1.0, 0.0], settings=qc.Settings(weakly_active=choice))
        certificate = f"residual below 1e-12: {found.residual < 1e-12}, weakly active rows: {found.weakly_active}"
        print(f"{where:<12} {choice:<14} dx1/dp = {0.0 - found.g}  {certificate}")

# Jacobians dx/dp of a batch of points.
layer = qc.QPLayer()
identity, one = torch.eye(2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)


def project(p: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    return layer(identity, -p, C=a[None], u=one).x


points = torch.tensor([[0.2, 0.2], [2.0, 1.0]], dtype=torch.float64)
a = torch.tensor([1.0, 1.0], dtype=torch.float64)
for p, jacobian in zip(points, vmap(jacrev(project), (0, None))(points, a), strict=True):
    print("p =", p.numpy(), " dx/dp =", *(0.0 + jacobian.numpy().round(4)))

# The second derivative of |x|^2 with respect to a, beside that of the formula above.
p = points[1]
by_layer = jacrev(jacrev(lambda a: project(p, a).square().sum()))(a)
by_formula = jacrev(jacrev(lambda a: (p - a * (a @ p - 1) / (a @ a)).square().sum()))(a)
error = (by_layer - by_formula).abs().max()
print("second derivative by a =", *by_layer.numpy(), f" error below 1e-12: {bool(error < 1e-12)}")
