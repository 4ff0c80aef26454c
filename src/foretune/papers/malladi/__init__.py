"""Malladi et al. 2023."""
