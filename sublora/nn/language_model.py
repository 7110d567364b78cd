"""What makes a model in its subspace answer as a model of transformers or PEFT does, so that their tools take it."""

import inspect
import sys
from pathlib import Path
from typing import Any

from torch import nn

from sublora.errors import ConfigError
from sublora.nn.checkpointing import enable_gradient_checkpointing

# Trainer hands over the columns that forward names, and knows the targets by the name `labels`.
COLUMNS = ("input_ids", "attention_mask", "position_ids", "inputs_embeds", "labels")
FORWARD = inspect.Signature(
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in COLUMNS),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]
)


class LanguageModel(nn.Module):
    """The attributes and methods of a model of transformers that its users call, passed on to the wrapped one.

    Nothing is passed on that would compute with parameters as they were before training: `materialize` comes first.
    Where the wrapped module is no such model, these attributes do not exist.
    """

    net: Any

    def materialize(self) -> nn.Module:
        """Write the trained parameters into the wrapped module and return it."""
        raise NotImplementedError

    @property
    def config(self) -> Any:
        """The wrapped model's configuration."""
        return self.net.config

    @property
    def generation_config(self) -> Any:
        """The wrapped model's defaults for `generate`."""
        return self.net.generation_config

    @property
    def device(self) -> Any:
        """Where the wrapped model is."""
        return self.net.device

    @property
    def dtype(self) -> Any:
        """The wrapped model's precision."""
        return self.net.dtype

    @property
    def main_input_name(self) -> str:
        """The first argument of the wrapped model."""
        return self.net.main_input_name

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether the wrapped model's loss takes the number of tokens that it is divided by."""
        model = self.net.get_base_model() if hasattr(self.net, "get_base_model") else self.net
        if hasattr(model, "accepts_loss_kwargs"):
            return bool(model.accepts_loss_kwargs)
        parameters = inspect.signature(model.forward).parameters.values()
        return any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters)

    def can_generate(self) -> bool:
        """Return whether the wrapped model generates text."""
        return self.net.can_generate()

    def get_input_embeddings(self) -> nn.Module:
        """Return the wrapped model's input embedding."""
        return self.net.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the wrapped model's output head."""
        return self.net.get_output_embeddings()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as the wrapped model does, with the parameters that are trained so far."""
        self.materialize()
        return self.net.generate(*args, **kwargs)

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        """Save the wrapped model with the parameters that are trained so far: with PEFT, the adapter that it loads."""
        self.materialize()
        self.net.save_pretrained(str(folder), **kwargs)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Keep only the inputs of layers for the backward pass, see `enable_gradient_checkpointing`.

        Raises:
            ConfigError: reentrant checkpointing, which cannot compute a layer again with the parameters it had.
        """
        if (activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ConfigError("a subspace needs gradient checkpointing with use_reentrant=False")
        enable_gradient_checkpointing(self.net, **options)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Do the same under the older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all that the backward pass needs again."""
        self.net.gradient_checkpointing_disable()

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Return how many numbers are trained, coordinates and gates, and how many parameters there are with them."""
        counts = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)

    def print_trainable_parameters(self) -> None:
        """Print these two numbers, as PEFT does."""
        trained, everything = self.get_nb_trainable_parameters()
        share = 100 * trained / everything
        line = f"trainable params: {trained:,d} || all params: {everything:,d} || trainable%: {share:.4f}"
        sys.stdout.write(f"{line}\n")
