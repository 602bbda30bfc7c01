"""A QP as a torch layer: gradients with respect to its data, also for an infeasible problem.

min 1/2 |x|^2  s.t.  theta <= x1 + x2 <= 1.55,  1.5 <= 2 x1 + x2 <= 1.55  is infeasible for theta > 1.55.
"""

import torch

import qp_control as qc

H = torch.eye(2, dtype=torch.float64)
C = torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
upper = torch.tensor([1.55, 1.55], dtype=torch.float64)
layer = qc.QPLayer()

theta = torch.tensor(1.54, dtype=torch.float64, requires_grad=True)
for _ in range(8):
    lower = torch.stack([theta, theta.new_tensor(1.5)])
    out = layer(H, torch.zeros(2, dtype=torch.float64), C=C, l=lower, u=upper)
    (gradient,) = torch.autograd.grad(out.x[0], theta)
    name = qc.Status(int(out.status)).name
    x1, x2 = out.x.tolist()
    print(f"theta {theta.item():.3f}  {name:<16}  x = ({x1:.4f}, {x2:.4f})  dx1/dtheta = {float(gradient):+.4f}")
    with torch.no_grad():
        theta += 0.005
