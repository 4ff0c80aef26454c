"""Fine-tuning itself: what is trained, how, and what came of it."""
