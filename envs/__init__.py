"""Gymnasium environments with Pinocchio dynamics; ids `QPControl/<Name>-v0` are registered on import."""
