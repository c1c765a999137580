"""The efficiencies of the scale benchmark as a picture, by matplotlib.

    draw(measured, works, counts, "ring", "scale.svg")

A column for each work, a row for each scaling. A band goes from no overlap, its lower edge, to full
overlap. Dots are measured here: what is left of workers that only share cores, when they
communicate. A cross is published by others, and between dotted lines is the band of its network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import scale_model
from benchmarks.scale_measure import Measured
from benchmarks.scale_model import FIXED
from benchmarks.scale_model import Link
from benchmarks.scale_model import NETWORKS
from benchmarks.scale_model import PUBLISHED
from benchmarks.scale_model import WEAK
from benchmarks.scale_model import Work


def draw(
    measured: Measured | None, works: Sequence[Work], counts: Sequence[int], shape: str, path: str
) -> bool:
    """Writes the picture; without matplotlib only says so.

    Returns:
        Whether it was written.
    """
    try:
        import matplotlib.figure
    except ImportError:
        print(
            f"{path} is not drawn: matplotlib is not installed. Install kerastrain[benchmarks].",
            file=sys.stderr,
        )
        return False
    figure = matplotlib.figure.Figure(figsize=(4 * len(works), 7), layout="constrained")
    axes = figure.subplots(2, len(works), squeeze=False, sharex=True, sharey=True)
    for row, scaling in zip(axes, (WEAK, FIXED), strict=True):
        for plot, work in zip(row, works, strict=True):
            _draw_one(plot, work, scaling, counts, shape)
            plot.set_title(f"{work.name}\n{scaling}", fontsize=9)
    if measured:
        for plot, suffix in zip(axes[:, 0], ("", ", fixed"), strict=True):
            _draw_measured(plot, measured, suffix)
    axes[0, 0].set_ylabel("efficiency, predicted in bands")
    axes[1, 0].set_ylabel("efficiency, predicted in bands")
    for plot in axes[1]:
        plot.set_xlabel("workers")
    for plot in axes[0]:
        plot.legend(fontsize=7, loc="lower left")
    figure.savefig(os.fspath(path))
    return True


def _draw_one(plot: Any, work: Work, scaling: str, counts: Sequence[int], shape: str) -> None:
    for network in NETWORKS:
        none, full = _band(work, network.link(shape), scaling, counts)
        plot.fill_between(counts, none, full, alpha=0.3, label=network.name)
    for one in PUBLISHED:
        if one.work.name == work.name and scaling == WEAK:
            for line in _band(one.work, one.network.link(one.shape), scaling, counts):
                plot.plot(counts, line, "k:", linewidth=0.8)
            plot.plot(
                one.workers, one.efficiency, "kx", label=f"published, {one.network.name} (dotted)"
            )
    plot.set_xscale("log", base=2)
    plot.set_ylim(0, 1.05)
    plot.grid(alpha=0.3)


def _band(
    work: Work, link: Link, scaling: str, counts: Sequence[int]
) -> tuple[list[float], list[float]]:
    """Efficiencies without overlap, and with full overlap."""
    none, full = (
        [scale_model.efficiency(n, work, link, overlap, scaling) for n in counts]
        for overlap in (0.0, 1.0)
    )
    return none, full


def _draw_measured(plot: Any, measured: Measured, suffix: str) -> None:
    """What is left of workers that only share cores, when they communicate."""
    counts = measured.workers
    ways = [suffix if count > 1 else "" for count in counts]
    found = [
        measured.step(f"alone{way}", count) / measured.step(f"together{way}", count)
        for count, way in zip(counts, ways, strict=True)
    ]
    plot.plot(counts, found, "o", color="black", label="measured, shared cores left out")
