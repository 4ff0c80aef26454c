"""What foretune computes on a GPU, held against float64 on the CPU, and how fast: `python -m benchmarks.gpu`."""
