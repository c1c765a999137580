"""Training on many workers on paper: seconds of a step and efficiency, from a few inputs.

    >>> vgg = Work("VGG-16, batch 64", compute=0.49, gradient_bytes=553e6)
    >>> slow = Link(alpha=3e-6, bandwidth=2.2e9, shape="ring")
    >>> [round(efficiency(n, vgg, slow), 2) for n in (1, 16, 512)]
    [1.0, 0.51, 0.49]
    >>> round(efficiency(512, vgg, slow, overlap=1.0), 2)
    0.97

A step of n workers takes

    T(n) = compute(n) + max(0, reduce(n) - overlap * compute(n)) + straggling(n) + vote(n) / chunk

    compute(n)    as on one worker, or with a fixed global batch 1/n of what is of rows
    reduce(n)     L(n) * alpha + 2 (n - 1) / n * bytes / bandwidth: an all-reduce of the gradients
    L(n)          2 (n - 1) messages one after the other in a ring, 2 ceil(log2 n) in a tree
    straggling(n) sigma * sqrt(2 ln n): by how much the slowest of n is late, if times are normal
    vote(n)       overhead + L(n) * alpha: what workers agree on once in a chunk of steps

Efficiency is T(1) / T(n) in weak scaling, where each worker keeps its batch, and T(1) / (n T(n))
with a fixed global batch. ``overlap`` is the share of the computation during which gradients are
on their way: kerastrain has none, as it sums them in one all-reduce after the backward pass.

Not in it: input pipelines and disks, other traffic, several workers behind one link. The model is
of messages and bytes: Hockney, R., "The communication challenge for MPP", 1994; bytes of a ring
are those of Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", 2009.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

WEAK, FIXED = "weak scaling", "fixed global batch"


@dataclasses.dataclass(frozen=True)
class Work:
    """What one worker does in a step.

    Attributes:
        name: for tables.
        compute: seconds of a step of one worker alone.
        gradient_bytes: that all workers add up.
        fixed: seconds of ``compute`` that do not depend on the rows.
        sigma: seconds; the standard deviation of a worker's step.
        vote: seconds of a vote beside its messages.
        chunk: steps for each vote; infinite for a training without votes.
    """

    name: str
    compute: float
    gradient_bytes: float
    fixed: float = 0.0
    sigma: float = 0.0
    vote: float = 0.0
    chunk: float = math.inf


@dataclasses.dataclass(frozen=True)
class Link:
    """Between any two workers.

    Attributes:
        alpha: seconds of a message without content.
        bandwidth: bytes a second that an all-reduce gets.
        shape: ``"ring"`` or ``"tree"``.
    """

    alpha: float
    bandwidth: float
    shape: str = "ring"


@dataclasses.dataclass(frozen=True)
class Network:
    """A kind of network, with what is known of it.

    Attributes:
        name: for tables.
        bandwidth: bytes a second, nominal.
        alpha: the least and the largest usual latency.
        usable: the least and the largest usual share of the bandwidth.
    """

    name: str
    bandwidth: float
    alpha: tuple[float, float]
    usable: tuple[float, float] = (0.6, 0.8)

    def link(self, shape: str = "ring") -> Link:
        """A link in the middle of both ranges."""
        alpha, usable = sum(self.alpha) / 2, sum(self.usable) / 2
        return Link(alpha, usable * self.bandwidth, shape)


ETHERNET, INFINIBAND = (10e-6, 50e-6), (1e-6, 5e-6)
NETWORKS = (
    Network("10 Gb Ethernet", 1.25e9, ETHERNET),
    Network("100 Gb Ethernet", 12.5e9, ETHERNET),
    Network("NDR InfiniBand", 50e9, INFINIBAND),
)


def messages(workers: int, shape: str) -> int:
    """How many follow one another in an all-reduce.

    >>> messages(8, "ring"), messages(8, "tree"), messages(1, "tree")
    (14, 6, 0)
    """
    if shape == "ring":
        return 2 * (workers - 1)
    if shape == "tree":
        return 2 * math.ceil(math.log2(workers))
    raise ValueError(f'`shape` must be "ring" or "tree". Received: {shape=}')


def reduce_seconds(workers: int, size: float, link: Link) -> float:
    """Seconds of an all-reduce of ``size`` bytes."""
    moved = 2 * (workers - 1) / workers * size
    return messages(workers, link.shape) * link.alpha + moved / link.bandwidth


def step_seconds(
    workers: int, work: Work, link: Link, overlap: float = 0.0, scaling: str = WEAK
) -> float:
    """T(n) of the equation above."""
    compute = work.compute
    if scaling == FIXED:
        compute = work.fixed + (work.compute - work.fixed) / workers
    if workers == 1:
        return compute
    waits = max(0.0, reduce_seconds(workers, work.gradient_bytes, link) - overlap * compute)
    late = work.sigma * math.sqrt(2 * math.log(workers))
    vote = work.vote + messages(workers, link.shape) * link.alpha
    return compute + waits + late + vote / work.chunk


def efficiency(
    workers: int, work: Work, link: Link, overlap: float = 0.0, scaling: str = WEAK
) -> float:
    """The share of n times one worker's rows a second that n workers reach."""
    ideal = work.compute / (workers if scaling == FIXED else 1)
    return ideal / step_seconds(workers, work, link, overlap, scaling)


def overlap_for(wanted: float, workers: int, work: Work, link: Link) -> float | None:
    """The overlap that gives an efficiency in weak scaling; None where none does."""
    none, full = (efficiency(workers, work, link, overlap) for overlap in (0.0, 1.0))
    if not none <= wanted <= full:
        return None
    late = step_seconds(workers, work, link) - work.compute / wanted
    return late / work.compute


# Published curves -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Published:
    """An efficiency in weak scaling that others have measured, and what it follows from.

    Attributes:
        work: on one worker.
        workers: how many.
        efficiency: that was published.
        network: between the workers.
        shape: of the all-reduce.
        source: of the efficiency and of the inputs.
    """

    work: Work
    workers: int
    efficiency: float
    network: Network
    shape: str
    source: str


# Gradients are float32; the numbers of weights are those of https://keras.io/api/applications.
# 25 Gb/s with RDMA: latencies as of InfiniBand. Four GPUs share the link of a server, but a ring
# over all passes it once in each direction.
_ROCE = Network("25 Gb RoCE", 3.125e9, INFINIBAND)
_HOROVOD = (
    "Horovod, docs/benchmarks.rst: 128 servers of 4 Pascal GPUs, 25 Gb/s RoCE; images/s of one GPU, "
    "batch 64, from the README before github.com/horovod/horovod/pull/44"
)
_GOYAL = (
    "Goyal et al., arXiv 1706.02677: 8 to 256 P100, batch 32 each, 50 Gb/s Ethernet between servers "
    "of 8, recursive halving and doubling; a worker is a server: 29 hours for 90 epochs "
    "(developer.nvidia.com/facebook-trains-imagenet-1-hour)"
)
_GOYAL_STEP = 29 * 3600 / (90 * 1_281_167 / 256)
PUBLISHED = (
    Published(
        Work("ResNet-50, batch 8 x 32", compute=_GOYAL_STEP, gradient_bytes=4 * 25.6e6),
        32, 0.90, Network("50 Gb Ethernet", 6.25e9, ETHERNET), "tree", _GOYAL,
    ),
    Published(
        Work("ResNet-101, batch 64", compute=64 / 119.4, gradient_bytes=4 * 44.7e6),
        512, 0.90, _ROCE, "ring", _HOROVOD,
    ),
    Published(
        Work("VGG-16, batch 64", compute=64 / 130.9, gradient_bytes=4 * 138.4e6),
        512, 0.68, _ROCE, "ring", _HOROVOD,
    ),
)  # fmt: skip


# From measurements ------------------------------------------------------------------


def fitted_link(workers: int, seconds: Mapping[int, float]) -> Link:
    """The ring whose all-reduces take as long as those measured, to the least relative error.

    Args:
        workers: between which they were.
        seconds: by bytes; two sizes or more.
    """
    sizes, times = (np.array(list(part), float) for part in (seconds.keys(), seconds.values()))
    columns = [np.full_like(sizes, messages(workers, "ring")), 2 * (workers - 1) / workers * sizes]
    alpha, beta = np.linalg.lstsq(np.stack(columns, 1) / times[:, None], np.ones_like(times))[0]
    return Link(max(float(alpha), 0.0), 1 / max(float(beta), 1e-15))


def spread(seconds: Sequence[float]) -> float:
    """The standard deviation of times, by their quartiles: a few very late ones do not count.

    >>> round(spread([1.0, 2.0, 3.0, 4.0, 100.0]), 2)
    1.48
    """
    low, high = np.percentile(seconds, [25, 75])
    return float(high - low) / 1.349
