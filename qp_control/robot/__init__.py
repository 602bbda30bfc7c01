"""Rigid bodies, dynamics with a control period, and contact."""
