"""Any data set as global batches, in an order that is known.

`Source` is the one class for arrays, ``tf.data``, ``PyDataset``, generators and loaders of others::

    what the user passes -> Source -> a pass for each epoch (arrays, pipelines, Python)
                         -> blocks of batches that lie together -> chunks, for the execution

Each source knows its position: how many passes were begun, and how many batches of the last were
drawn (`kerastrain.data.cursor`). `checks` is what is wrong with data, found before a weight
changes; `named_sets` is several sets by name, and the split of one for validation.
"""

from kerastrain.data import checks
from kerastrain.data import named_sets
from kerastrain.data import stacks
from kerastrain.data.adapters import holds_composites
from kerastrain.data.adapters import signature
from kerastrain.data.blocks import Ahead
from kerastrain.data.blocks import batch_at
from kerastrain.data.blocks import Block
from kerastrain.data.blocks import bytes_of
from kerastrain.data.blocks import Chunk
from kerastrain.data.blocks import rows_of
from kerastrain.data.checks import part_of
from kerastrain.data.indexed import safe_for_keras
from kerastrain.data.source import Source

__all__ = [
    "Ahead",
    "Block",
    "Chunk",
    "Source",
    "batch_at",
    "bytes_of",
    "checks",
    "holds_composites",
    "named_sets",
    "part_of",
    "rows_of",
    "safe_for_keras",
    "signature",
    "stacks",
]
