"""Tests of `kerastrain.metrics`: laws, references, literal cases and errors."""
