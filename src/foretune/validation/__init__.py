"""Whether a forecast ranks candidates: real fine-tuning of every one, against what each score says of it."""
