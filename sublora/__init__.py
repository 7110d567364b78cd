"""SubLoRA: train a language model in a few hundred numbers, and prove how well it does on unseen text."""

from sublora.inequalities.bound import bound

__all__ = ["__version__", "bound"]
__version__ = "0.1.0"
