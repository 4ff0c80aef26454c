"""Arithmetic on kernels: spectra, solvers, baselines. Nothing here knows a model or a text."""
