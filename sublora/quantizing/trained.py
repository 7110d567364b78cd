"""A trained model before quantization, and what a message says of it."""

import numpy as np
import torch
from transformers import PreTrainedModel

from sublora.coding.gates import quantize_gates
from sublora.config import Config
from sublora.corpus.corpus import Corpus
from sublora.nn.base import create_base
from sublora.nn.create_model import architecture_from_config, build_on, merge, spec_from_config
from sublora.nn.subspace import SubspaceModule
from sublora.scoring.measure import Rebuilt
from sublora.scoring.prompt import prompt_tokens
from sublora.training.checkpoint import Checkpoint


class Trained:
    """A checkpoint's model before quantization.

    Attributes:
        spec: what a message says of the model, coordinates and gates aside.
        alpha: shape (d,); empty without an adapter.
        gates: as they are coded, none if the model has none.
        rms: root mean square of alpha, 1 where alpha is zero.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint, corpus: Corpus, device: torch.device) -> None:
        self.config = config
        self.corpus, self.train = corpus, corpus.train
        self.prompt = checkpoint.prompt
        self.prompt_tokens = prompt_tokens(self.prompt, corpus.prior, corpus.eot_token)
        self.device = device
        self.architecture = architecture_from_config(config, checkpoint.vocab_size)
        self.tensors = checkpoint.tensors
        alpha = checkpoint.tensors.get("subspace_params")
        self.alpha = np.zeros(0, np.float32) if alpha is None else alpha.numpy().astype(np.float32)
        self.rms = float(np.sqrt(np.mean(self.alpha.astype(np.float64) ** 2))) or 1.0 if len(self.alpha) else 1.0
        gates = checkpoint.tensors.get("gating_params")
        self.gates = quantize_gates(1 / (1 + np.exp(-gates.double().numpy()))) if gates is not None else np.zeros(0)
        # Which layers a name means is asked of the base. It is loaded for that, and kept for the first model.
        self._base = self._load_base() if config.sublora.names_layers else None
        self.spec = spec_from_config(config, len(self.gates), self._base)

    def _load_base(self) -> PreTrainedModel:
        config = self.config
        return create_base(self.architecture, config.system.seed, config.prior.base, config.model.dropout)

    def model(self, gates: np.ndarray | None = None) -> SubspaceModule:
        """Return the model at the checkpoint's alpha, and at its gates or those that are given."""
        base, self._base = self._base or self._load_base(), None
        section = self.config.sublora
        model = build_on(base, self.spec, lora_dropout=section.lora_dropout, gating_init=section.gamma_init)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.tensors[name])
            if gates is not None and len(gates):
                model.get_parameter("gating_params").copy_(torch.from_numpy(gates).logit())
        return model.to(self.device)

    def unquantized(self) -> Rebuilt:
        """Return the model as if a message said alpha exactly."""
        model = self.model(self.gates)
        return Rebuilt(merge(model), str(model.base_sha256), model.D, self.prompt_tokens)
