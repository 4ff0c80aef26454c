"""Kernels by parameter block: contractions of gradient factors, tile by tile, stored and resumable."""
