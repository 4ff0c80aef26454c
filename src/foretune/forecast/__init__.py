"""From kernels to answers."""
