"""Per-example gradients as short sums of outer products, captured from one forward and c backward passes."""
