"""Whole-body control by inverse dynamics: tasks, limits and contacts, their QP, and the controller."""
