"""The figures of one run: where its bound and its bits come from, and how it was trained."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sublora.certificate.model import Certificate
from sublora.certificate.wording import DIGITS
from sublora.classification.model import ClassifierCertificate
from sublora.report.analysis.metrics import Record, column, smooth
from sublora.report.analysis.parts import stacked, top_k_claims
from sublora.report.analysis.tables import unit_name
from sublora.report.pages.panel import Panel, panel, present

# Okabe & Ito (2008), distinguishable with any kind of colour vision. Yellow and black are left out: they vanish on a
# light and on a dark page.
BLUE, RED, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
# From first to last layer; every colour stands out from white and from black.
DEPTH = LinearSegmentedColormap.from_list("depth", [BLUE, SKY, ORANGE, RED])
# Inches. Small enough that 10 pt text is still readable when the figure is scaled to the width of a phone.
WIDTH = 4.8
PARTS = {
    "empirical": ("empirical risk", BLUE),
    "smoothing": ("smoothing", ORANGE),
    "complexity": ("complexity", GREEN),
    "sampling": ("sampling", PURPLE),
}
# The training loss is averaged with weights that halve over this share of the records.
HALF_LIFE = 0.02


def new_axes(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """Return a transparent figure of `height` inches and its array of rows x columns axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        axes.patch.set_alpha(0)
    return figure, grid


def _one(height: float) -> tuple[Figure, Axes]:
    figure, grid = new_axes(height)
    return figure, grid[0, 0]


def key_above(figure: Figure) -> None:
    """Put the key above the axes, where it covers nothing."""
    figure.legend(loc="outside upper left", ncols=2, handlelength=1.6, columnspacing=1.2)


@panel(
    "decomposition",
    "Where the bound comes from",
    "Bound on bits per token: the empirical risk of the decoded model; the price of making the loss bounded, below "
    "zero where the fallback helps more than that; the price of K bits and n documents; the price of measuring a draw "
    "rather than every document.",
)
def decomposition(certificate: Certificate) -> Figure:
    """Draw the bound of the first claim as a stack of empirical risk, smoothing, complexity and sampling.

    All lengths are in bits per token; the held-out loss, where it is known, is a line.
    """
    figure, axes = _one(2.0)
    left = 0.0
    parts: list[Any] = []
    for name, length in stacked(certificate.decomposition).items():
        (text, colour), value = PARTS[name], getattr(certificate.decomposition, name)
        label = f"{text} {value:.{DIGITS}f}"
        parts.append(axes.barh(0, length, left=left, height=0.6, color=colour, label=label))
        left += length
    if held_out := certificate.held_out:
        label = f"{held_out.part} {unit_name(certificate)} {held_out.bpd:.{DIGITS}f}"
        parts.append(axes.axvline(held_out.bpd, color="black", linestyle="--", linewidth=1.2, label=label))
    axes.set(xlabel="bits per token", yticks=[], ylim=(-0.45, 0.45), xlim=(0, None))
    axes.grid(axis="y", visible=False)
    figure.legend(handles=parts, loc="outside upper left", ncols=2, handlelength=1.6, columnspacing=1.2)
    return figure


@panel(
    "ledger",
    "Where the bits of the message go",
    "Every field of the message. Together they are K, the length of the file in bits.",
)
def ledger(certificate: Certificate | ClassifierCertificate) -> Figure:
    """Draw how many bits of the message each field takes, the longest first."""
    fields = sorted(certificate.message.ledger.items(), key=lambda field: field[1])
    figure, axes = _one(0.7 + 0.24 * len(fields))
    bars = axes.barh([name.replace("_", " ") for name, _ in fields], [bits for _, bits in fields], color=BLUE)
    axes.bar_label(bars, labels=[f"{bits:,.4g}" if bits < 100 else f"{bits:,.0f}" for _, bits in fields], padding=3)
    axes.set(xlabel="bits")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    return figure


def log_axis(axes: Axes, axis: str) -> None:
    """Make an axis, "x" or "y", logarithmic with its ticks written as plain numbers; call it when all is drawn."""
    axes.set(**{f"{axis}scale": "log"})
    ticks = getattr(axes, f"{axis}axis")
    low, high = ticks.get_view_interval()
    # Of more than a decade and a half, powers of ten are enough, and more would not fit.
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ticks.set_minor_formatter(NullFormatter())


def k_axis(axes: Axes, ks: list[int]) -> None:
    """Make the x axis logarithmic with a tick at some of the k."""
    axes.set_xscale("log")
    axes.set_xticks(shown := [k for k in ks if k in (1, 2, 3, 5, 10, 50, 100)], labels=[str(k) for k in shown])
    axes.minorticks_off()


@panel(
    "top_k",
    "Top-k error",
    "Share of tokens that are not among the k most probable: measured, and the bound on it.",
)
def top_k(certificate: Certificate) -> Figure:
    """Draw the share of tokens that are not among the k most probable, and its bound, against k."""
    claims = top_k_claims(certificate)
    figure, axes = _one(2.7)
    ks = [k for k, _ in claims]
    axes.plot(ks, [claim.bound for _, claim in claims], color=RED, marker="s", markersize=4, label="bound")
    axes.plot(ks, [claim.empirical for _, claim in claims], color=BLUE, marker="o", markersize=4, label="empirical")
    k_axis(axes, ks)
    axes.set(xlabel="k (logarithmic)", ylabel="top-k error, share of tokens", ylim=(0, 1.02))
    key_above(figure)
    return figure


@panel(
    "training",
    "Loss",
    "Of the training batches, and of fixed batches of both splits at every evaluation.",
)
def training(metrics: list[Record], unit: str) -> Figure | None:
    """Draw the training loss, raw and smoothed, and both evaluations against the step; None where nothing is recorded.

    Args:
        metrics: records of training.
        unit: that its losses are in.
    """
    if not metrics:
        return None
    figure, axes = _one(2.9)
    steps, losses = column(metrics, "train", "loss")
    if len(steps):
        bits = losses / math.log(2)
        axes.plot(steps, bits, color=SKY, alpha=0.45, linewidth=0.8, label="batches")
        axes.plot(
            steps, smooth(bits, max(HALF_LIFE * len(bits), 1.0)), color=BLUE, linewidth=1.4, label="batches, smoothed"
        )
    for name, colour, marker, label in (
        ("train_bpd", GREEN, "o", "training documents"),
        ("val_bpd", RED, "s", "held-out documents"),
    ):
        steps, values = column(metrics, "eval", name)
        if len(steps):
            axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=label)
    axes.set(xlabel="step", ylabel=unit)
    key_above(figure)
    return figure


@panel(
    "learning_rate",
    "Learning rate",
    "Of the subspace coordinates.",
)
def learning_rate(metrics: list[Record]) -> Figure | None:
    """Draw the learning rate of alpha against the step; None where no step is recorded."""
    steps, rates = column(metrics, "train", "lr")
    if not len(steps):
        return None
    figure, axes = _one(2.0)
    axes.plot(steps, rates, color=BLUE, linewidth=1.4)
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    return figure


@panel(
    "gates_by_step",
    "Gates over training",
    "Every layer's share of B.",
)
def gates_by_step(metrics: list[Record]) -> Figure | None:
    """Draw every layer's gamma against the step; None where nothing is gated."""
    steps, gammas = column(metrics, "eval", "gamma")
    if not len(steps):
        return None
    figure, axes = _one(2.7)
    layers = gammas.shape[1]
    colours = ScalarMappable(Normalize(-0.5, layers - 0.5), DEPTH.resampled(layers))
    for curve, colour in zip(gammas.T, colours.to_rgba(np.arange(layers)), strict=True):
        axes.plot(steps, curve, color=colour, linewidth=1.3)
    figure.colorbar(colours, ax=axes, label="layer", ticks=MaxNLocator(integer=True))
    axes.set(xlabel="step", ylabel="gamma, share of B")
    return figure


@panel(
    "gates_by_layer",
    "Gates by layer",
    "Share of B, first and last.",
)
def gates_by_layer(metrics: list[Record]) -> Figure | None:
    """Draw the last gamma of every layer, and the first; None where nothing is gated."""
    steps, gammas = column(metrics, "eval", "gamma")
    if not len(steps):
        return None
    figure, axes = _one(2.7)
    layers = np.arange(gammas.shape[1])
    axes.plot(layers, gammas[0], color=SKY, linestyle="--", linewidth=1.2, label=f"step {steps[0]:,}")
    axes.plot(layers, gammas[-1], color=BLUE, marker="o", markersize=4, label=f"step {steps[-1]:,}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="layer", ylabel="gamma, share of B")
    key_above(figure)
    return figure


def _sides(metrics: list[Record]) -> list[tuple[np.ndarray, np.ndarray, str, str, str]]:
    sides = (("grad_norm_a", BLUE, "o", "through A"), ("grad_norm_b", RED, "s", "through B"))
    found = [(*column(metrics, "train", name), colour, marker, label) for name, colour, marker, label in sides]
    return [side for side in found if len(side[0])]


@panel(
    "gradients_by_step",
    "Gradients over training",
    "Norm of the gradient that reaches the coordinates through A and through B: mean and range over layers.",
)
def gradients_by_step(metrics: list[Record]) -> Figure | None:
    """Draw the norm of the gradient that reaches alpha through A and through B: mean and range over layers."""
    if not (sides := _sides(metrics)):
        return None
    figure, axes = _one(2.7)
    for steps, norms, colour, _, label in sides:
        axes.plot(steps, norms.mean(1), color=colour, linewidth=1.2, label=label)
        axes.fill_between(steps, norms.min(1), norms.max(1), color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="step", ylabel="gradient norm (logarithmic)")
    log_axis(axes, "y")
    key_above(figure)
    return figure


@panel(
    "gradients_by_layer",
    "Gradients by layer",
    "The same norm, averaged over the second half of training.",
)
def gradients_by_layer(metrics: list[Record]) -> Figure | None:
    """Draw the norm of the gradient through A and through B by layer, averaged over the second half of training."""
    if not (sides := _sides(metrics)):
        return None
    figure, axes = _one(2.7)
    for _, norms, colour, marker, label in sides:
        axes.plot(norms[len(norms) // 2 :].mean(0), color=colour, marker=marker, markersize=4, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="layer", ylabel="gradient norm (logarithmic)")
    log_axis(axes, "y")
    key_above(figure)
    return figure


def of_training(metrics: list[Record], unit: str) -> list[Panel]:
    """Return every figure of a training for which something was recorded; its losses are in `unit`."""
    return present(
        training(metrics, unit),
        learning_rate(metrics),
        gates_by_step(metrics),
        gates_by_layer(metrics),
        gradients_by_step(metrics),
        gradients_by_layer(metrics),
    )
