"""Studies: many measurements in cells that are kept, and the printed tables of papers as recipes."""
