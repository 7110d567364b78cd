"""Adapters of a few hundred values on one base: what is compared, how it is trained, and its messages."""
