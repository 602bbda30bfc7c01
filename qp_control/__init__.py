"""Differentiable QP solver, model predictive control and robot learning."""
