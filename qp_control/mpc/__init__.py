"""Model predictive control: the nonlinear problem, its QPs, and the controller."""
