"""Layer-wise relevance propagation: the rules and the pass that applies them."""
