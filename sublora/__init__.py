"""SubLoRA: train a language model in a few hundred numbers, and prove how well it does on unseen text."""

__version__ = "0.1.0"
