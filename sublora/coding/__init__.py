"""From subspace coordinates to a self-delimiting message of a few hundred bytes, and back."""
