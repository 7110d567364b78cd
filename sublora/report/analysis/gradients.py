"""How much of the gradient reaches the coordinates through B rather than A, layer by layer, beside the final gammas."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sublora.report.analysis.metrics import column
from sublora.report.analysis.runs import Configuration, Run, configurations

Points = tuple[Float[np.ndarray, "seeds layers"], Float[np.ndarray, "seeds layers"]]


def b_share(run: Run, *, first: bool = False) -> Float[np.ndarray, " layers"] | None:
    """Return log2 of B's gradient norm over A's per layer; None where they are not recorded for both.

    Args:
        run: with gradient norms in its metrics.
        first: at the first record, when the gates have hardly moved, instead of the mean over training.
    """
    norms = [column(run.metrics, "train", f"grad_norm_{side}")[1] for side in "ab"]
    if not len(norms[0]) or norms[0].shape != norms[1].shape or min(map(np.min, norms)) <= 0:
        return None
    ratios = np.log2(norms[1] / norms[0])
    return ratios[0] if first else ratios.mean(0)


def beside_gammas(runs: Sequence[Run], *, first: bool = False) -> dict[Configuration, Points]:
    """Return, per gated configuration, the shares of B in the gradient and the final gammas: a row per seed.

    Runs whose gates are not one per layer are left out.
    """
    out: dict[Configuration, Points] = {}
    for configuration, group in configurations(runs).items():
        pairs = [(b_share(run, first=first), run.gamma()) for run in group]
        rows = [(x, y) for x, y in pairs if x is not None and y is not None and x.shape == y.shape]
        if rows and len({len(x) for x, _ in rows}) == 1:
            out[configuration] = np.array([x for x, _ in rows]), np.array([y for _, y in rows])
    return out
