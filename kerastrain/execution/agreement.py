"""What several workers agree on before each chunk of steps.

::

    agreement = Agreement(cluster, seconds=lambda: 0.2)
    agreement.take(source)             # one small all-reduce; refuses what does not fit together
    agreement.most_steps               # that all of them can take
    agreement.noted(chunk)             # with what the workers have of its batches
    agreement.finish(source)           # compares the last ones

Collective operations match only where all workers run the same ones: calls of as many steps, of
batches of one kind. So the number of steps, the kind, and the time that plans are chosen by are those
of all. More may be asked in the same all-reduce: `Agreement.votes`.
"""

import zlib
from collections.abc import Callable

from kerastrain.data import Agreed
from kerastrain.data import Ahead
from kerastrain.data import Chunk
from kerastrain.data import ChunkKind
from kerastrain.data import Source
from kerastrain.distribution import Cluster
from kerastrain.distribution import Votes
from kerastrain.errors import DataError
from kerastrain.state import digest_of


class Agreement:
    """What the workers of a cluster agree on before each chunk of steps.

    Args:
        cluster: of the workers.
        seconds: gives those that steps took here since the last time.

    Attributes:
        votes: what is agreed on; more may be asked.
    """

    def __init__(self, cluster: Cluster, seconds: Callable[[], float]):
        self._ahead = Ahead(0, ChunkKind.ALONE, 0)
        self._agreed: Agreed | None = None
        self._taken = 0  # a checksum of the batches that were taken
        self.votes = votes = Votes(cluster)
        votes.ask("steps", "least", lambda: self._ahead.steps)
        votes.ask("kind", "most", lambda: self._ahead.kind)
        votes.ask("checksum", "most", lambda: self._ahead.checksum)
        votes.ask("taken", "most", lambda: self._taken)
        votes.ask("rows", "least", lambda: self._ahead.rows)
        votes.ask("shape", "most", lambda: self._ahead.shape)
        votes.ask("seconds", "most", seconds)
        votes.ask("stop", "any", lambda: False)

    def take(self, source: Source) -> None:
        """Agrees on the next chunk of a source. Collective.

        Raises:
            DataError: the workers have other batches, or one has no more of them.
        """
        self._ahead = source.ahead()
        self.votes.take()
        steps, kinds = self.votes.of_each("steps"), {*self.votes.of_each("kind")}
        if source.has_share and not steps.all() and steps.any():
            raise DataError(
                f"`{source.name}` gives worker {int(steps.argmin())} fewer batches than others. Let each "
                "worker's data set have rows of every global batch, as many batches on all of them: "
                "cut the rows before they are batched, with Dataset.shard, and repeat what is not as long."
            )
        if source.has_share and len({*self.votes.of_each("shape")}) > 1:
            raise DataError(
                f"`{source.name}` gives the workers rows of other types or shapes in one step, such as other "
                "lengths. Pad them to one length on all workers."
            )
        is_other = not source.has_share and len(kinds) > 1
        sums = ({*self.votes.of_each(name)} for name in ("checksum", "taken"))
        if is_other or any(len(one) > 1 for one in sums):
            raise other_batches(source.name)
        self._agreed = None
        if source.has_share:
            kind = next(
                kind for kind in (ChunkKind.ALONE, ChunkKind.SHORT, ChunkKind.FULL) if kind in kinds
            )
            self._agreed = Agreed(kind, tuple(map(int, self.votes.of_each("rows"))))

    @property
    def most_steps(self) -> int:
        """That all workers can take in one chunk."""
        if self._agreed is not None and self._agreed.kind != ChunkKind.FULL:
            return 1
        return max(1, int(self.votes["steps"]))

    def noted(self, chunk: Chunk) -> Chunk:
        """The chunk, with what the workers have of its batches where each has its own rows.

        Of batches that each has drawn whole, all are compared, with the next chunk.
        """
        if self.votes.cluster.has_others and chunk.block.whole is None:
            for batch in chunk.block.batches_on_host(range(chunk.start, chunk.start + chunk.steps)):
                self._taken = zlib.crc32(digest_of(batch).encode(), self._taken)
        return chunk._replace(agreed=self._agreed)

    def finish(self, source: Source) -> None:
        """Compares the last batches of an epoch. Collective.

        Raises:
            DataError: the workers have had other ones.
        """
        cluster = self.votes.cluster
        if cluster.has_others and not source.has_share:
            if len({*cluster.gather([self._taken])[:, 0]}) > 1:
                raise other_batches(source.name)


def other_batches(name: str) -> DataError:
    """What is raised where workers have other batches of the data of a name."""
    return DataError(
        f"`{name}` gives the workers other batches: they have not drawn the same rows in the same "
        "order. Shuffle with a seed, and let the data depend on nothing that differs between the "
        "processes."
    )
