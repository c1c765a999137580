"""Which cluster a process is of, by the variables that it finds."""

import json
import os

import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain.distribution import strategy
from tests.support import workers


def cluster(workers):
    addresses = [f"127.0.0.1:{number}" for number in range(1000, 1000 + workers)]
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": workers - 1}}
    )


@pytest.mark.parametrize("config", [None, cluster(1)])
def test_one_worker_is_no_cluster(config, monkeypatch):
    """It costs nothing: there is no strategy, and nobody to agree with."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    assert strategy.resolve("multi_worker") is strategy.resolve("auto")


def test_workers_meet_before_tensorflow_runs_anything(monkeypatch):
    """Here it has."""
    monkeypatch.setenv("TF_CONFIG", cluster(2))
    tf.constant(1)
    with pytest.raises(ArgumentError, match="Make the Trainer first of all"):
        strategy.resolve("multi_worker")


@pytest.mark.parametrize("devices", [None, "0,1"])
def test_tasks_of_slurm_without_gpus_of_theirs(devices, monkeypatch):
    """All are workers, on machines without GPUs too, or where SLURM has divided them."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if devices:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    else:
        monkeypatch.setattr(strategy.shutil, "which", lambda name: None)
    for name, value in workers.slurm(2, 3).items():
        monkeypatch.setenv(name, value)
    resolver = strategy._cluster_resolver()
    addresses = [f"localhost:{number}" for number in (8888, 8889, 8890)]
    assert {"worker": addresses} == resolver.cluster_spec().as_dict()
    assert ("worker", 2) == (resolver.task_type, resolver.task_id)
    assert devices == os.environ.get("CUDA_VISIBLE_DEVICES")
