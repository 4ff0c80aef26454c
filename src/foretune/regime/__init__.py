"""What fine-tuning did to a model: measures of two models, before and after, or of one model around its parameters."""
