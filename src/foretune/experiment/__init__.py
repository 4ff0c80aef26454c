"""A model asked a task on a sample: what every question starts from."""
