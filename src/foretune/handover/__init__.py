"""What runs next: a script, configurations and rows beside a forecast, and the forecast beside the real run."""
