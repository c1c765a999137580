"""Any data set as global batches, in an order that is known.

`Source` is the one class for arrays, ``tf.data``, ``PyDataset``, generators and loaders of others::

    what the user passes -> Source -> a pass for each epoch (arrays, pipelines, Python)
                         -> blocks of batches that lie together -> chunks, for the execution

Each source knows its position: how many passes were begun, and how many batches of the last were
drawn (`kerastrain.data.cursor`). Of several workers each has its own rows of every batch
(`kerastrain.data.shares`). `checks` is what is wrong with data, found before a weight
changes; `tables` makes arrays of columns of pandas, polars and Arrow; `named_sets` is several sets by
name, and the split of one for validation.
"""

from kerastrain.data import checks
from kerastrain.data import named_sets
from kerastrain.data import stacks
from kerastrain.data.adapters import holds_composites
from kerastrain.data.adapters import signature
from kerastrain.data.blocks import Agreed
from kerastrain.data.blocks import Ahead
from kerastrain.data.blocks import batch_at
from kerastrain.data.blocks import Block
from kerastrain.data.blocks import bytes_of
from kerastrain.data.blocks import Chunk
from kerastrain.data.blocks import ChunkKind
from kerastrain.data.blocks import known_rows
from kerastrain.data.blocks import rows_of
from kerastrain.data.checks import part_of
from kerastrain.data.indexed import safe_for_keras
from kerastrain.data.shares import Share
from kerastrain.data.source import free_memory
from kerastrain.data.source import Source
from kerastrain.data.tables import as_arrays

__all__ = [
    "Agreed",
    "Ahead",
    "Block",
    "Chunk",
    "ChunkKind",
    "Share",
    "Source",
    "as_arrays",
    "batch_at",
    "bytes_of",
    "checks",
    "free_memory",
    "holds_composites",
    "known_rows",
    "named_sets",
    "part_of",
    "rows_of",
    "safe_for_keras",
    "signature",
    "stacks",
]
