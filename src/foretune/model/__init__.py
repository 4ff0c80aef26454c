"""Models as pure functions of their parameters: text in, logits of shape (n, c) out."""
