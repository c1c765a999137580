"""Small programs. Run one as in `python -m kerastrain.examples.plain_loop`; tests run all.

The three that kerastrain grew from, each written by hand first, with the mistake that such
code tends to have, and its measure:

- `plain_loop`: a loop that takes a model as an argument, and runs every step eagerly.
- `mean_loss_metric`: a loop with a metric of its own, which is the mean of batch means.
- `mirrored`: a loop on two replicas, whose gradients are added where a mean is meant.
"""
