"""What could be trained, what the kernel says of it, and how far that can be told apart."""
