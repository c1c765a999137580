"""Tests of `kerastrain.testing`'s laws."""
