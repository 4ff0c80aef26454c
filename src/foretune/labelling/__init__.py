"""The labels of all rows: which are wrong, how many more are needed, which come next, what a prediction rests on."""
