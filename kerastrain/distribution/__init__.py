"""Several replicas as one: their devices, their sums, and the states of their metrics.

`strategy` resolves what the user passes; `replicas` is what replicas do together inside a step: the
sum of gradients and of denominators; `merging` makes one state of the states that a metric has on
each replica, by the rule of each variable; `MetricStates` keeps those of train, validation and test
apart. `ScopedVariables` lends the variables of a strategy's scope to a model that was made outside.
"""

from kerastrain.distribution import merging
from kerastrain.distribution import replicas
from kerastrain.distribution import strategy
from kerastrain.distribution.cluster import Cluster
from kerastrain.distribution.cluster import cluster_of
from kerastrain.distribution.cluster import Votes
from kerastrain.distribution.metric_states import MetricStates
from kerastrain.distribution.scoped import changes_checked
from kerastrain.distribution.scoped import ScopedVariables

__all__ = [
    "Cluster",
    "MetricStates",
    "ScopedVariables",
    "Votes",
    "changes_checked",
    "cluster_of",
    "merging",
    "replicas",
    "strategy",
]
