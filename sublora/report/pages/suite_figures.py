"""The figures of many runs. A configuration is a mode and a number of coordinates d; its runs differ in their seed.

Colours stand for modes and markers for d, the same in every figure. Marks are means, bars and bands standard errors.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sublora.report.analysis.curves import curve, frontier
from sublora.report.analysis.hypotheses import Answer
from sublora.report.analysis.parts import stacked, top_k_claims
from sublora.report.analysis.runs import Configuration, Run, configurations, mean_and_error, mode_order
from sublora.report.analysis.suite import Suite
from sublora.report.analysis.tables import minus
from sublora.report.pages.crowd import Mark, show_crowd
from sublora.report.pages.figures import (
    BLUE,
    DEPTH,
    GREEN,
    ORANGE,
    PARTS,
    PURPLE,
    RED,
    SKY,
    k_axis,
    log_axis,
    new_axes,
)
from sublora.report.pages.panel import panel

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#808080", "#8c5a2b", "#9a9a00")
MARKERS = "osD^vPX"
# An axis is logarithmic when its values span more than this factor.
WIDE = 5.0


class _Key:
    """Which colour stands for which mode, and which marker for which d."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.modes = sorted({run.mode for run in runs}, key=mode_order)
        self.budgets = sorted({run.d for run in runs})

    def colour(self, mode: str) -> str:
        """Return the colour of a mode."""
        return COLOURS[self.modes.index(mode) % len(COLOURS)]

    def marker(self, d: int) -> str:
        """Return the marker of a number of coordinates."""
        return MARKERS[self.budgets.index(d) % len(MARKERS)]

    def legend(self, figure: Figure, *, budgets: bool = False, more: Sequence[Line2D] = ()) -> None:
        """Put the key above the axes: a colour per mode, a marker per d, and more lines."""
        handles = [Line2D([], [], color=self.colour(m), linewidth=3, label=m) for m in self.modes]
        if budgets:
            handles += [
                Line2D([], [], color="#808080", marker=self.marker(d), linestyle="", label=f"d = {d:,}")
                for d in self.budgets
            ]
        handles += more
        # The axes stay as high as below a short key.
        figure.set_figheight(figure.get_figheight() + 0.2 * max(0, math.ceil(len(handles) / 3) - 2))
        figure.legend(handles=handles, loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=1.4)


def _panels(count: int, height: float = 2.1, *, x: str, y: str, sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels in at most two columns, with its labels."""
    columns = min(2, count)
    rows = math.ceil(count / columns)
    figure, grid = new_axes(0.7 + height * rows, rows, columns, sharey=sharey)
    panels = list(grid.flat[:count])
    for axes in grid.flat[count:]:
        axes.remove()
    for axes in panels[-columns:]:
        axes.set_xlabel(x)
    figure.supylabel(y, fontsize=10)
    return figure, panels


def _scale(axes: Axes, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > WIDE * min(values):
        log_axis(axes, "x")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))


def _marks(
    axes: Axes,
    groups: dict[Configuration, list[Run]],
    key: _Key,
    x: Callable[[Run], float],
    y: Callable[[Run], float],
) -> list[tuple[float, float]]:
    """Draw one mark per configuration, mean and standard error of x and y; return the means.

    What is far above the others is named at the edge.
    """
    means, marks = [], []
    for (mode, d), group in groups.items():
        (x_mean, x_error), (y_mean, y_error) = mean_and_error(map(x, group)), mean_and_error(map(y, group))
        axes.errorbar(
            x_mean,
            y_mean,
            xerr=None if math.isnan(x_error) else x_error,
            yerr=None if math.isnan(y_error) else y_error,
            color=key.colour(mode),
            marker=key.marker(d),
            markersize=5,
            linestyle="",
            elinewidth=1,
        )
        means.append((x_mean, y_mean))
        bar = 0.0 if math.isnan(y_error) else y_error
        marks.append(Mark(y_mean, y_mean - bar, y_mean + bar, key.colour(mode)))
    show_crowd(axes, marks)
    return means


def _kl(run: Run) -> float:
    return run.bits * math.log(2)


def _empirical(run: Run) -> float:
    return run.claim("bpd", "empirical")


def _draw_frontier(axes: Axes, means: Sequence[tuple[float, float]]) -> None:
    best = frontier(means)
    axes.plot(*zip(*best, strict=True), color="black", linewidth=1, linestyle="--", drawstyle="steps-post", zorder=1)
    _scale(axes, [x for x, _ in means])


_FRONTIER = Line2D([], [], color="black", linewidth=1, linestyle="--", label="frontier")


@panel(
    "pareto",
    "Pareto frontier",
    "Empirical risk of the decoded model against the information in its message. One mark per configuration: mean "
    "and standard error over seeds. No configuration lies below and left of the dashed line. A triangle names "
    "what is far above the axis.",
)
def pareto(suite: Suite) -> Figure:
    """Draw empirical risk against KL, all configurations together, with the Pareto frontier of the means."""
    runs = suite.certified
    key = _Key(runs)
    figure, (axes,) = _panels(1, 2.6, x="KL = K ln 2, nats", y="empirical bits per token")
    _draw_frontier(axes, _marks(axes, configurations(runs), key, _kl, _empirical))
    key.legend(figure, budgets=True, more=[_FRONTIER])
    return figure


@panel(
    "pareto_by_budget",
    "Pareto frontier for every d",
    "The same, apart.",
)
def pareto_by_budget(suite: Suite) -> Figure:
    """Draw empirical risk against KL with a panel, and a frontier, for every d."""
    runs = suite.certified
    key = _Key(runs)
    figure, panels = _panels(len(key.budgets), 2.5, x="KL = K ln 2, nats", y="empirical bits per token", sharey=False)
    for axes, d in zip(panels, key.budgets, strict=True):
        groups = configurations(run for run in runs if run.d == d)
        _draw_frontier(axes, _marks(axes, groups, key, _kl, _empirical))
        axes.set_title(f"d = {d:,}")
    key.legend(figure, more=[_FRONTIER])
    return figure


@panel(
    "compression",
    "Bound and length of the message",
    "Certified bits per token against the length of the message, in bytes and in bits (K).",
)
def compression(suite: Suite) -> Figure:
    """Draw the certified bound against the length of the message."""
    runs = suite.certified
    key = _Key(runs)
    figure, (axes,) = _panels(1, 2.8, x="message, bytes", y="certified bits per token")
    means = _marks(axes, configurations(runs), key, lambda run: run.bits / 8, lambda run: run.claim("bpd", "bound"))
    _scale(axes, [x for x, _ in means])
    bits = axes.secondary_xaxis("top", functions=(lambda x: np.multiply(x, 8), lambda k: np.divide(k, 8)))
    bits.set_xlabel("K, bits")
    bits.tick_params(labelsize=10)
    if axes.get_xscale() == "linear":
        bits.xaxis.set_major_locator(MaxNLocator(4))
    key.legend(figure, budgets=True)
    return figure


@panel(
    "compression_factor",
    "Bound and compression of the parameters",
    "Certified bits per token against D/d.",
)
def compression_factor(suite: Suite) -> Figure | None:
    """Draw the certified bound against D/d, LoRA parameters per coordinate; None where no run records D."""
    runs = [run for run in suite.certified if run.D and run.d]
    if not runs:
        return None
    key = _Key(runs)
    figure, (axes,) = _panels(1, 2.6, x="D/d, LoRA parameters per coordinate", y="certified bits per token")
    means = _marks(
        axes, configurations(runs), key, lambda run: (run.D or 0) / run.d, lambda run: run.claim("bpd", "bound")
    )
    _scale(axes, [x for x, _ in means])
    key.legend(figure, budgets=True)
    return figure


@panel(
    "decomposition",
    "Where the bounds come from",
    "Bound on bits per token, mean over seeds: empirical risk, the price of a bounded loss, of K bits and n "
    "documents, and of measuring a draw.",
)
def decompositions(suite: Suite) -> Figure:
    """Draw the bound of every configuration as a stack of its parts, averaged over seeds."""
    runs = suite.certified
    groups = configurations(runs)
    figure, (axes,) = _panels(1, 0.3 + 0.22 * len(groups), x="bits per token", y="")
    left = np.zeros(len(groups))
    rows = np.arange(len(groups))
    stacks = [[stacked(run.certificate.decomposition) for run in g if run.certificate] for g in groups.values()]
    for part, (text, colour) in PARTS.items():
        values = [np.mean([stack[part] for stack in group]) for group in stacks]
        axes.barh(rows, values, left=left, height=0.7, color=colour, label=text)
        left += values
    axes.set_yticks(rows, labels=[str(configuration) for configuration in groups])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2, handlelength=1.4)
    return figure


@panel(
    "gates",
    "Gates by layer and seed",
    "Share of B at the end of training.",
)
def gate_map(suite: Suite) -> Figure | None:
    """Draw the last gamma of every layer and seed as a heat map per gated configuration; None without gates."""
    gates = suite.gates
    if not gates:
        return None
    values = np.concatenate([gamma for seeds in gates.values() for gamma in seeds.values()])
    colours = ScalarMappable(Normalize(values.min(), values.max()), DEPTH.resampled(32))
    heights = [len(seeds) for seeds in gates.values()]
    figure, grid = new_axes(0.4 + sum(0.55 + 0.2 * h for h in heights), len(gates), 1, height_ratios=heights)
    for axes, (configuration, seeds) in zip(grid[:, 0], gates.items(), strict=True):
        for row, gamma in enumerate(seeds.values()):
            edges = np.arange(len(gamma) + 1) - 0.5
            axes.pcolormesh(edges, [row - 0.5, row + 0.5], gamma[None], cmap=colours.cmap, norm=colours.norm)
        axes.set_yticks(range(len(seeds)), labels=[str(seed) for seed in seeds])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set(title=str(configuration), ylabel="seed")
    grid[-1, 0].set_xlabel("layer")
    figure.colorbar(colours, ax=list(grid[:, 0]), label="gamma, share of B")
    return figure


@panel(
    "gates_by_depth",
    "Gates and depth",
    "Faint lines are seeds; marks are their mean and standard error. p is adjusted for the number of panels.",
)
def gates_by_depth(suite: Suite) -> Figure | None:
    """Draw gamma against the layer: every seed faintly, mean and standard error in front; None without gates."""
    gates = suite.gates
    if not gates:
        return None
    key = _Key(suite.runs)
    figure, panels = _panels(len(gates), x="layer", y="gamma, share of B")
    for axes, (configuration, seeds) in zip(panels, gates.items(), strict=True):
        colour = key.colour(configuration.mode)
        for gamma in seeds.values():
            axes.plot(gamma, color=colour, alpha=0.3, linewidth=0.8)
        if len({len(gamma) for gamma in seeds.values()}) == 1:
            table = np.array(list(seeds.values()))
            error = table.std(0, ddof=1) / math.sqrt(len(table)) if len(table) > 1 else None
            axes.errorbar(range(table.shape[1]), table.mean(0), yerr=error, color=colour, marker="o", markersize=3.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{configuration}{_test(suite.depth, configuration)}")
    return figure


def _test(answer: Answer, configuration: Configuration) -> str:
    """Return the correlation and its p-value, adjusted for the number of panels, as lines of a title."""
    found = [f for f in answer.findings if f.what == configuration and not math.isnan(f.p)]
    return "".join(f"\nSpearman {minus(f'{f.estimate:+.2f}')},\np = {f.adjusted:.2g}" for f in found[-1:])


@panel(
    "gates_and_gradients",
    "Gates and gradients",
    "Final gamma of every layer against how much more of the gradient came through B than through A, mean over "
    "training; markers are seeds. The gradient passes the gate, so what is seen may be the gate's own doing.",
)
def gates_and_gradients(suite: Suite) -> Figure | None:
    """Draw gamma against the share of B in the gradient over training, a mark per layer and seed; None without."""
    points = suite.shares
    if not points:
        return None
    figure, panels = _panels(len(points), x="", y="gamma, share of B")
    figure.supxlabel("log2 of the gradient norm, B over A", fontsize=10)
    layers = max(gammas.shape[1] for _, gammas in points.values())
    colours = ScalarMappable(Normalize(-0.5, layers - 0.5), DEPTH.resampled(layers))
    for axes, (configuration, (shares, gammas)) in zip(panels, points.items(), strict=True):
        for marker, share, gamma in zip(itertools.cycle(MARKERS), shares, gammas, strict=False):
            axes.scatter(share, gamma, c=colours.to_rgba(np.arange(len(gamma))), marker=marker, s=14, linewidths=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(f"{configuration}{_test(suite.gradient, configuration)}")
    figure.colorbar(colours, ax=panels, label="layer", ticks=MaxNLocator(integer=True))
    return figure


def _band(axes: Axes, steps: np.ndarray, table: np.ndarray, colour: str, linestyle: str = "-") -> None:
    mean = table.mean(0)
    axes.plot(steps, mean, color=colour, linewidth=1.2, linestyle=linestyle)
    if len(table) > 1:
        error = table.std(0, ddof=1) / math.sqrt(len(table))
        axes.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)


@panel(
    "gradients",
    "Gradients",
    "Norm of the gradient that reaches the coordinates through A and through B, mean over layers.",
)
def gradients(suite: Suite) -> Figure | None:
    """Draw the gradient norms through A and B over training, a panel per configuration; None if not recorded."""
    curves = {}
    for configuration, group in configurations(suite.runs).items():
        sides = [curve(group, "train", name) for name in ("grad_norm_a", "grad_norm_b")]
        if all(len(steps) for steps, _ in sides):
            curves[configuration] = sides
    if not curves:
        return None
    figure, panels = _panels(len(curves), 1.25, x="step", y="gradient norm (logarithmic)")
    for axes, (configuration, sides) in zip(panels, curves.items(), strict=True):
        for (steps, table), colour in zip(sides, (BLUE, RED), strict=True):
            _band(axes, steps, table, colour)
        log_axis(axes, "y")
        axes.set_title(str(configuration))
    lines = [Line2D([], [], color=c, label=label) for c, label in ((BLUE, "through A"), (RED, "through B"))]
    figure.legend(handles=lines, loc="outside upper left", ncols=2)
    return figure


@panel(
    "training",
    "Training",
    "Held-out loss before quantization; bands are standard errors over seeds.",
)
def training_curves(suite: Suite) -> Figure | None:
    """Draw the held-out loss over training, a panel for every d; None if never evaluated on held-out text.

    The untrained model, which may be far above all others, is left out where two later evaluations make a curve.
    """
    key = _Key(suite.runs)
    curves = {}
    for configuration, group in configurations(suite.runs).items():
        steps, table = curve(group, "eval", "val_bpd")
        shown = steps > 0 if (steps > 0).sum() > 1 else steps >= 0
        curves[configuration] = steps[shown], table[:, shown]
    if not any(len(steps) for steps, _ in curves.values()):
        return None
    units = {run.loss_unit for run in suite.runs}
    unit = units.pop() if len(units) == 1 else "bits"
    figure, panels = _panels(len(key.budgets), x="step", y=f"held-out {unit}", sharey=False)
    curves = {configuration: curve for configuration, curve in curves.items() if len(curve[0])}
    for (mode, d), (steps, table) in curves.items():
        _band(panels[key.budgets.index(d)], steps, table, key.colour(mode))
    for axes, d in zip(panels, key.budgets, strict=True):
        means = {mode: table.mean(0) for (mode, budget), (_, table) in curves.items() if budget == d}
        show_crowd(axes, [Mark(m[-1], m.min(), m.max(), key.colour(mode)) for mode, m in means.items()])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(f"d = {d:,}")
    key.legend(figure)
    return figure


@panel(
    "top_k",
    "Top-k error",
    "Share of tokens that are not among the k most probable: bound, and measured.",
)
def top_k_curves(suite: Suite) -> Figure:
    """Draw the top-k error and its bound against k, a panel for every d, averaged over seeds."""
    runs = suite.certified
    key = _Key(runs)
    figure, panels = _panels(len(key.budgets), x="k (logarithmic)", y="top-k error")
    for (mode, d), group in configurations(runs).items():
        axes = panels[key.budgets.index(d)]
        claims = [top_k_claims(run.certificate) for run in group if run.certificate]
        ks = [k for k, _ in claims[0]]
        for field, linestyle in (("bound", "-"), ("empirical", ":")):
            _band(
                axes,
                np.array(ks),
                np.array([[getattr(c, field) for _, c in row] for row in claims]),
                key.colour(mode),
                linestyle,
            )
        k_axis(axes, ks)
    for axes, d in zip(panels, key.budgets, strict=True):
        axes.set(title=f"d = {d:,}", ylim=(0, 1.02))
    bound = Line2D([], [], color="black", label="bound")
    empirical = Line2D([], [], color="black", linestyle=":", label="empirical")
    key.legend(figure, more=[bound, empirical])
    return figure
