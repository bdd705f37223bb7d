"""Features: inputs that excite a neuron."""
