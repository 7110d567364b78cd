"""Quantization-aware training: the model computes with quantized coordinates and gates while it is trained."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sublora import seeds
from sublora.coding.gates import quantize_gates
from sublora.coding.quantizers import Quantized, on_centroids, quantize
from sublora.corpus.batches import Batch, Batches
from sublora.nn.called import call_with
from sublora.nn.loss import SubspaceLoss, call_on_batch
from sublora.nn.subspace import SubspaceModule
from sublora.progress import progress

# Mean squared error of coding the centroids, as a share of the mean square: about 7 bits each.
PRECISION = 2.0**-14


class QuantizingWrapper(nn.Module):
    """A subspace model whose alpha is replaced by the nearest of `levels` learned centroids, and its gates by cells.

    Rounding has no useful derivative, so alpha and the gates get the gradient of their rounded values (the
    straight-through estimator: Bengio et al. 2013). A centroid gets the sum of the gradients of the coordinates that
    stand at it. The gates, if the model has any, are a vector whose sigmoid is coded on the grid of `quantize_gates`.

    Args:
        model: at the alpha and gates to start from; both stay its parameters.
        levels: number of centroids, at least 1.
        method: where they start, see `sublora.coding.quantizers.quantize`.

    Raises:
        ValueError: alpha is not finite, or there is no such method.
    """

    def __init__(self, model: SubspaceModule, *, levels: int, method: str) -> None:
        super().__init__()
        self.model = model
        alpha = model.subspace_params.detach()
        start = np.unique(quantize(alpha.double().cpu().numpy(), levels=levels, method=method).reconstruction)
        # Not a submodule of its own: its parameters are the model's.
        self._loss = (SubspaceLoss(model),)
        self.centroids = nn.Parameter(torch.from_numpy(start).to(alpha))

    @property
    def _gates(self) -> nn.Parameter | None:
        return self.model.gating_params

    @torch.no_grad()
    def assignments(self) -> Int64[Tensor, " d"]:
        """Return which centroid is nearest to each coordinate."""
        return (self.model.subspace_params[:, None] - self.centroids).abs().argmin(1)

    def parameters_by_name(self) -> dict[str, Tensor]:
        """Return the rounded alpha and gates, differentiable in alpha, the gates and the centroids."""
        alpha = self.model.subspace_params
        rounded = {"subspace_params": self.centroids[self.assignments()] + alpha - alpha.detach()}
        if (gates := self._gates) is not None:
            coded = torch.from_numpy(self.quantized_gates()).logit().to(gates)
            rounded["gating_params"] = coded + gates - gates.detach()
        return rounded

    def _loss_of(self, batch: Batch) -> Tensor:
        """The loss of a batch in nats with the parameters rounded."""
        rounded = {f"subspace.{name}": value for name, value in self.parameters_by_name().items()}
        return call_on_batch(lambda *arguments: call_with(self._loss[0], rounded, arguments), self.model.net, batch)

    def forward(self, *args: object, **kwargs: object) -> object:
        """Call the model with its parameters rounded."""
        return call_with(self.model, self.parameters_by_name(), args, **kwargs)

    @torch.no_grad()
    def quantized(self) -> Quantized:
        """Return the coordinates as they are coded: each at its centroid, which is coded with few digits."""
        values = self.centroids[self.assignments()].double().cpu().numpy()
        return on_centroids(values, np.unique(values), PRECISION * float(np.mean(values**2)))

    @torch.no_grad()
    def quantized_gates(self) -> Float[np.ndarray, " g"]:
        """Return the gates as they are coded, none if the model has none."""
        gates = self._gates
        return np.zeros(0) if gates is None else quantize_gates(gates.double().sigmoid().cpu().numpy())

    def fit(self, batches: Batches, *, steps: int, learning_rate: float, batch_size: int, seed: int) -> None:
        """Train alpha, the centroids and the gates (Kingma & Ba 2015), all with one learning rate.

        Args:
            batches: what it is trained on, crops or documents.
            steps: gradient steps.
            learning_rate: of all three.
            batch_size: rows of a step.
            seed: root of the stream of batches.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=learning_rate)
        self.eval()
        with progress("training the quantized model", steps) as advance:
            for i in range(steps):
                batch = batches.sample(seeds.stream(seed, "quantizing", i), batch_size)
                loss = self._loss_of(batch) / math.log(2)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                advance(1)
