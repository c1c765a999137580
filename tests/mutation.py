"""Small faults, planted one at a time, and which tests find them.

::

    python -m tests.mutation                        # all of them, by the default tests
    python -m tests.mutation --tier all             # and, where these miss one, by the slow ones
    python -m tests.mutation --near                 # by the tests of its folder and those named with it
    python -m tests.mutation --only clip --list

A fault is a piece of the source and what it is replaced by, in a copy of the checkout. The tests of
the same folder run first, then those that are named with it, then the rest, each until one fails.
A fault that no test finds is a test that is missing. `tests/test_mutation.py` holds that each piece
of source is there, once.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A run of tests that takes longer has hung, which is a way to notice a fault.
SECONDS = 1500


class Fault(NamedTuple):
    """One fault.

    Attributes:
        name: short, and unique.
        path: of the module, below the package.
        right: the piece of source, which stands there once, however it is wrapped.
        wrong: what it is replaced by.
        tests: files or folders of tests, below ``tests/``, that are to find it, beside those of
            the module's own folder.
    """

    name: str
    path: str
    right: str
    wrong: str
    tests: tuple[str, ...] = ()


EXACT = ("test_exactness.py",)

FAULTS = (
    # The step ----------------------------------------------------------------------------------
    Fault(
        "gradients clipped before the sum",
        "step/steps.py",
        "gradients = gradients_lib.clip(gradients, options, scale)",
        "gradients = gradients_lib.clip(gradients, options)",
    ),
    Fault(
        "hook sees scaled gradients",
        "step/steps.py",
        "gradients = gradients_lib.rescale(gradients, 1.0 / scale)",
        "pass",
    ),
    Fault(
        "regularisers of no part",
        "step/steps.py",
        "gradients = gradients_lib.add(gradients, _regularization_gradients(objective))",
        "_regularization_gradients(objective)",
        EXACT,
    ),
    Fault(
        "factor of the denominator upside down",
        "step/steps.py",
        "factor = tf.math.divide_no_nan(loss_lib.expected(term, all_rows), denominator)",
        "factor = tf.math.divide_no_nan(denominator, loss_lib.expected(term, all_rows))",
        EXACT,
    ),
    Fault(
        "logged loss of the first replica's rows",
        "step/steps.py",
        "_keras.loss_tracker(model).update_state(total, sample_weight=rows)",
        "_keras.loss_tracker(model).update_state(total)",
        EXACT,
    ),
    Fault(
        "logged loss without regularisers",
        "step/steps.py",
        "total = regularization if total is None else total + regularization",
        "total = regularization if total is None else total",
        EXACT,
    ),
    Fault(
        "loss of a part that is not scaled",
        "step/steps.py",
        "group: _scaled(objective.optimizer, part_share)",
        "group: part_share",
    ),
    Fault(
        "gradients of rows that are not there",
        "step/steps.py",
        "sums = {g: gradients_lib.of_real_rows(local, rows) for g, local in sums.items()}",
        "pass",
        ("distribution/test_strategy.py",),
    ),
    Fault(
        "outputs of rows that stand in",
        "step/steps.py",
        "outputs.append(y_pred if full else rows_lib.first_rows(y_pred, size))",
        "outputs.append(y_pred)",
        EXACT,
    ),
    Fault(
        "duplicates of sparse gradients",
        "step/steps.py",
        "gradients = gradients_lib.sum_duplicates(gradients, dense=hook or model.jit_compile)",
        "pass",
    ),
    Fault(
        "weighted mean of a batch of the whole",
        "step/objectives.py",
        "tracker.update_state(value, sample_weight=rows)",
        "tracker.update_state(value)",
        EXACT,
    ),
    Fault(
        "updates of one another's weights",
        "step/objectives.py",
        "return self._update.weights()",
        "return self._model.trainable_weights",
    ),
    Fault(
        "updates without regularisers",
        "step/objectives.py",
        "return None, value if of_weights is None else value + tf.cast(of_weights, value.dtype)",
        "return None, value",
    ),
    Fault(
        "norms of clipped gradients",
        "step/steps.py",
        '"gradient_norm", gradients, scale)',
        '"gradient_norm", gradients_lib.clip(gradients, options, scale), scale)',
    ),
    Fault(
        "norms of what is scaled",
        "step/steps.py",
        "norm = tf.linalg.global_norm(dense) / tf.cast(scale, tf.float32)",
        "norm = tf.linalg.global_norm(dense)",
    ),
    # The loss ----------------------------------------------------------------------------------
    Fault(
        "sample weights in the numerator only",
        "step/loss.py",
        "tf.reduce_sum(weights) * real",
        "count * real",
        EXACT,
    ),
    Fault(
        "mask that does not count",
        "step/loss.py",
        "denominator = tf.math.divide_no_nan(count * tf.reduce_sum(mask), total) * real",
        "denominator = count * real",
        EXACT,
    ),
    Fault(
        "loss weights that are left",
        "step/loss.py",
        "return value if term.weight is None else value * term.weight",
        "return value",
        EXACT,
    ),
    Fault(
        "a stand-in row that counts",
        "step/loss.py",
        "real = tf.cast(rows > 0, numerator.dtype)",
        "real = tf.ones((), numerator.dtype)",
        (*EXACT, "distribution/test_strategy.py"),
    ),
    Fault(
        "rows of the part for those of all",
        "step/loss.py",
        "return tf.cast(all_rows, term.denominator.dtype) * term.per_row",
        "return term.denominator * term.per_row",
        EXACT,
    ),
    Fault(
        "mask or weights, not both",
        "step/loss.py",
        "return mask * sample_weight",
        "return mask",
        EXACT,
    ),
    Fault(
        "NaN of a stand-in row",
        "step/loss.py",
        "numerator = tf.math.multiply_no_nan(value, denominator)\n    return Term(ROWS",
        "numerator = value * denominator\n    return Term(ROWS",
        ("distribution/test_strategy.py",),
    ),
    # Gradients ---------------------------------------------------------------------------------
    Fault(
        "clipping by value on one side",
        "step/gradients.py",
        "clipped = tf.clip_by_value(gradient, -bound, bound)",
        "clipped = tf.clip_by_value(gradient, gradient.dtype.min, bound)",
    ),
    Fault(
        "infinite gradients that are clipped",
        "step/gradients.py",
        "return tf.where(tf.math.is_finite(gradient), clipped, gradient)",
        "return clipped",
    ),
    Fault(
        "norm of each for that of all",
        "step/gradients.py",
        "return tf.clip_by_global_norm(gradients, limit)[0]",
        "return [None if g is None else tf.clip_by_norm(g, limit) for g in gradients]",
    ),
    Fault(
        "a gradient of one part is dropped",
        "step/gradients.py",
        "b if a is None else a if b is None else a + tf.convert_to_tensor(b)",
        "b if a is None else a",
        EXACT,
    ),
    Fault(
        "sparse entries added up in the wrong row",
        "step/gradients.py",
        "return tf.IndexedSlices(values, rows, gradient.dense_shape)",
        "return tf.IndexedSlices(values, rows[::-1], gradient.dense_shape)",
    ),
    # Rows --------------------------------------------------------------------------------------
    Fault(
        "parts that leave rows out",
        "step/rows.py",
        "start, stop = (-(-rows * i // count) for i in (k, k + 1))",
        "start, stop = (rows // count * i for i in (k, k + 1))",
        EXACT,
    ),
    Fault(
        "masks that are lost with outputs",
        "step/rows.py",
        "_keras.set_mask(whole, tf.concat(masks, axis=0))",
        "pass",
    ),
    Fault(
        "first row for another",
        "step/rows.py",
        "first = tf.where(size > 0, start, 0)",
        "first = start",
        (*EXACT, "distribution"),
    ),
    # Replicas ----------------------------------------------------------------------------------
    Fault(
        "the same dropout on each replica",
        "distribution/replicas.py",
        "moved = tf.cast(seed, tf.int64) + [_BETWEEN_SEEDS, 0] * tf.cast(number, tf.int64)",
        "moved = tf.cast(seed, tf.int64) + [_BETWEEN_SEEDS, 0] * 0",
    ),
    Fault(
        "variance from the replica's own mean",
        "distribution/replicas.py",
        "variance = mean_of_all(tf.math.squared_difference(x, mean))",
        "variance = mean_of_all("
        "tf.math.squared_difference(x, tf.reduce_mean(x, axes, keepdims=True)))",
    ),
    Fault(
        "stand-in rows in batch statistics",
        "distribution/replicas.py",
        "real = tf.ones((), x.dtype) if rows is None else tf.cast(rows > 0, x.dtype)",
        "real = tf.ones((), x.dtype)",
    ),
    Fault(
        "gradients that are summed twice",
        "distribution/replicas.py",
        "None if g is None else tf.convert_to_tensor(g) / count() for g in gradients",
        "g for g in gradients",
        ("preparation", "test_model.py"),
    ),
    # Merging -----------------------------------------------------------------------------------
    Fault(
        "minimum for maximum",
        "distribution/merging.py",
        '(tf.reduce_max if rule == "max" else tf.reduce_min)',
        '(tf.reduce_min if rule == "max" else tf.reduce_min)',
    ),
    Fault(
        "moments without the distance of means",
        "distribution/merging.py",
        "co_moments = co_one + co_other + n_one * share * products",
        "co_moments = co_one + co_other",
    ),
    Fault(
        "a reset state on every replica",
        "distribution/merging.py",
        'if rule in ("sum", "moments"):\n        return [value]',
        'if rule in ("moments",):\n        return [value]',
    ),
    Fault(
        "states that are not merged",
        "distribution/merging.py",
        'if rule != "sum" and _keras.is_distributed(variable):',
        'if rule not in ("sum", "max") and _keras.is_distributed(variable):',
    ),
    Fault(
        "validation in the train metrics",
        "distribution/metric_states.py",
        "_keras.assign_local(variable, kept[key])",
        "pass",
        ("test_trainer.py", "loop"),
    ),
    Fault(
        "validation that does not begin fresh",
        "distribution/metric_states.py",
        "_keras.assign_local(variable, self._fresh[key])",
        "pass",
        ("test_trainer.py", "loop"),
    ),
    Fault(
        "a reset that is skipped",
        "distribution/metric_states.py",
        "self._reset(self._compilable(variables))",
        "pass",
        ("test_trainer.py", "loop"),
    ),
    # Data --------------------------------------------------------------------------------------
    Fault(
        "the same order in each epoch",
        "data/array_passes.py",
        "rng = np.random.default_rng([self._seed, number])",
        "rng = np.random.default_rng([self._seed, 0])",
    ),
    Fault(
        "a batch that is skipped after a resume",
        "data/array_passes.py",
        "for index in range(taken, len(own.sizes)):",
        "for index in range(taken + bool(taken), len(own.sizes)):",
    ),
    Fault(
        "rows that two workers have",
        "data/shares.py",
        "return -(-rows * self.index // self.count),",
        "return rows * self.index // self.count,",
    ),
    Fault(
        "steps that only one worker can take",
        "execution/agreement.py",
        'return max(1, int(self.votes["steps"]))',
        "return 2**31 - 1",
    ),
    Fault(
        "streams that differ between workers",
        "execution/agreement.py",
        "self._taken = zlib.crc32(digest_of(batch).encode(), self._taken)",
        "pass",
    ),
    Fault(
        "stacks that begin at the wrong batch",
        "data/array_passes.py",
        "return Pass(blocks, number, taken, skipped=taken % of_stack)",
        "return Pass(blocks, number, taken, skipped=0)",
    ),
    Fault(
        "the last batch of arrays is left out",
        "data/blocks.py",
        'sizes = np.diff([*range(0, count, rows), count]).astype("int32")',
        'sizes = np.diff([*range(0, count + 1, rows)]).astype("int32")',
    ),
    Fault(
        "rows of the batch before",
        "data/blocks.py",
        "starts[1 : len(sizes)] = np.cumsum(sizes[:-1])",
        "starts[1 : len(sizes)] = np.cumsum(sizes[1:])",
    ),
    Fault(
        "a chunk over a short batch",
        "data/blocks.py",
        "steps = min(most, block.full - index) if index < block.full else 1",
        "steps = min(most, block.steps - index)",
    ),
    Fault(
        "a look that is a step", "data/blocks.py", "self.taken += steps", "self.taken += steps + 1"
    ),
    Fault(
        "an epoch of steps that is one short",
        "data/source.py",
        "limit = most() if self.steps is None else min(most(), self.steps - self._count)",
        "limit = most() if self.steps is None else min(most(), self.steps - 1 - self._count)",
    ),
    Fault(
        "what is drawn again is not compared",
        "data/rewind.py",
        'if first not in (None, now["first"]):',
        "if False:",
    ),
    Fault(
        "a shuffle of another pass",
        "data/indexed.py",
        "rng = np.random.default_rng([self._seed, number])",
        "rng = np.random.default_rng([self._seed, 0])",
    ),
    Fault(
        "arrays in the memory of the user's",
        "data/memory.py",
        "own = empty(array.shape, array.dtype)\n    np.copyto(own, array)",
        "own = array",
    ),
    # Execution ---------------------------------------------------------------------------------
    Fault(
        "a loop that is one step short",
        "execution/loops.py",
        "tf.while_loop(lambda index: index < stop, one_step, (start,), parallel_iterations=1)",
        "tf.while_loop(lambda index: index < stop - 1, one_step, (start,), parallel_iterations=1)",
    ),
    Fault(
        "results at the wrong place",
        "execution/loops.py",
        "array.write(index - start, leaf)",
        "array.write(start, leaf)",
    ),
    Fault(
        "a trace for other shapes",
        "execution/dynamic_batch.py",
        "and all(mine in (None, its) for mine, its in zip(self.axes, axes, strict=True))",
        "",
    ),
    Fault(
        "a failed loop that has changed weights",
        "execution/runner.py",
        "before.restore()\n            memory = isinstance",
        "memory = isinstance",
    ),
    Fault(
        "short batches by the plan in force",
        "execution/runner.py",
        "if not chunk.is_full:\n            return self._run_beside(chunk)",
        "if False:\n            return self._run_beside(chunk)",
    ),
    Fault(
        "a slower plan is taken",
        "execution/plan_choice.py",
        "return other if best[other.name] < _MIN_GAIN",
        "return other if best[other.name] > _MIN_GAIN",
    ),
    Fault(
        "a plan that costs more than it saves",
        "execution/plan_choice.py",
        "return gain * left > price or gain / XLA_GAIN * self._earlier > price",
        "return True",
    ),
    Fault(
        "earlier trainings are no evidence",
        "execution/plan_choice.py",
        "or gain / XLA_GAIN * self._earlier > price",
        "",
    ),
    Fault(
        "a record that is true no more is believed",
        "execution/plan_records.py",
        "if not 1 / _AS_BEFORE < changed < _AS_BEFORE:",
        "if False:",
    ),
    Fault(
        "a metric that has counted elsewhere goes on",
        "distribution/merging.py",
        "for metric in _keras.waiting_metrics(model):",
        "for metric in []:",
    ),
    Fault(
        "nothing is looked for before an evaluation",
        "preparation/lint.py",
        "if replicas > 1:\n            found += rows_compared",
        "if False:\n            found += rows_compared",
    ),
    Fault(
        "logs of the first step for all",
        "execution/step_calls.py",
        "end(index, one)",
        "end(index, logs[0])",
    ),
    Fault(
        "steps that are not traced anew",
        "execution/compiled_steps.py",
        "self._ones.clear()\n        self._loops.clear()",
        "pass",
        ("preparation", "guard", "run"),
    ),
    # The guard ---------------------------------------------------------------------------------
    Fault(
        "a journal that forgets a chunk",
        "guard/journal.py",
        "self.entries.append((chunk, settings))",
        "self.entries.append((chunk, settings)) if not self.entries else None",
    ),
    Fault(
        "a position that is not rolled back",
        "guard/journal.py",
        "self.clear()\n        self.now = self._of_snapshot",
        "self.clear()",
    ),
    Fault(
        "a stale snapshot",
        "guard/journal.py",
        "begun = time.perf_counter()\n        self.copies.take()",
        "begun = time.perf_counter()\n        self.copies.values or self.copies.take()",
    ),
    Fault(
        "a bad step that stays",
        "guard/recovery.py",
        "logs = self._without(chunk, settings, logs)",
        "pass",
    ),
    Fault(
        "settings of later steps",
        "guard/recovery.py",
        "while True:\n            put(settings)",
        "while True:",
    ),
    Fault(
        "bad weights that are not looked at",
        "guard/finite.py",
        "good = variables or self.variables_are_finite()",
        "good = True",
    ),
    Fault(
        "no bound to what is skipped",
        "guard/policy.py",
        "if len(self.of(epoch)) < most:",
        "if True:",
    ),
    Fault(
        "a rollback to now",
        "guard/snapshots.py",
        "self._copies.restore()\n        self._next",
        "self._next",
    ),
    Fault(
        "what callbacks assign is taken back",
        "guard/transactions.py",
        "self._is_touched = self._saves = self._is_changed_by_callbacks = True",
        "self._saves = self._is_changed_by_callbacks = True",
    ),
    # A run -------------------------------------------------------------------------------------
    Fault(
        "a lost optimizer",
        "run/training_state.py",
        "if name in parts:",
        'if name in parts and not name.startswith("optimizer/"):',
    ),
    Fault(
        "metrics of the epoch that are lost",
        "run/training_state.py",
        "if name in parts:\n",
        'if name in parts and not name.startswith("metrics/"):\n',
    ),
    Fault(
        "random numbers that begin anew",
        "run/training_state.py",
        'global_random.set_states(values["random"], but=self._drawn_from)',
        "pass",
    ),
    Fault(
        "callbacks that begin anew",
        "run/training_state.py",
        'self._callbacks.set(values["callbacks"])',
        "pass",
    ),
    Fault(
        "replicas that are all the first",
        "run/training_state.py",
        "if all(_same(part, parts[0]) for part in parts[1:]):",
        "if True:",
    ),
    Fault(
        "a step that is counted twice",
        "run/position.py",
        "self, epoch=self.epoch + 1, step=0",
        "self, epoch=self.epoch + 1, step=self.step",
    ),
    Fault(
        "a save that is late",
        "run/saving.py",
        "return steps - self._saved_steps >= self._steps",
        "return steps - self._saved_steps > self._steps",
    ),
    Fault(
        "the best is removed",
        "run/saving.py",
        "self._checkpoints.keep({self.best}, self._keep)",
        "self._checkpoints.keep(set(), self._keep)",
    ),
    Fault(
        "worse is the best",
        "run/best.py",
        "if not math.isfinite(value) or not better:",
        "if not math.isfinite(value) or better:",
    ),
    Fault(
        "bytes that are not verified",
        "run/checkpoint.py",
        'if hashlib.file_digest(file, "sha256").hexdigest() != manifest["file"]["sha256"]:',
        "if False:",
    ),
    Fault(
        "a manifest that is not verified",
        "run/checkpoint.py",
        'intact = manifest["format"] == FORMAT and digest == _digest(manifest)',
        'intact = manifest["format"] == FORMAT',
    ),
    Fault(
        "a checkpoint that is seen half written",
        "run/checkpoint.py",
        "os.rename(unfinished, path)\n            flush(self.directory)",
        "shutil.copytree(unfinished, path)",
    ),
    Fault(
        "patience that is forgotten",
        "run/callback_states.py",
        '"wait",\n        "best",\n        "best_epoch",',
        '"best",\n        "best_epoch",',
    ),
    Fault(
        "a log with rows twice",
        "run/callback_states.py",
        "os.truncate(callback.filename, length)",
        "pass",
    ),
    Fault(
        "another model is no difference",
        "run/identity.py",
        'raise RunError(\n            f"The run in {where} is another one',
        'return\n        raise RunError(\n            f"The run in {where} is another one',
    ),
    # The loop ----------------------------------------------------------------------------------
    Fault(
        "a reset in the middle of an epoch",
        "loop/fit_loop.py",
        "if position.step == 0:  # else the epoch is resumed where it was interrupted",
        "if True:",
        ("run",),
    ),
    Fault(
        "saved after the next batch",
        "loop/fit_loop.py",
        'self.saved.after_steps(position)\n            times.lap("saving")',
        'times.lap("saving")',
        ("run",),
    ),
    Fault(
        "an epoch off by one",
        "loop/schedule.py",
        "return (epoch + 1) % validation_freq == 0",
        "return epoch % validation_freq == 0",
        ("test_trainer.py",),
    ),
    Fault(
        "training on after a stop",
        "loop/fit_loop.py",
        "if position.stopped or self._is_out_of_time:",
        "if self._is_out_of_time:",
        ("test_trainer.py", "run"),
    ),
    Fault(
        "results of a pass without batches",
        "loop/evaluation.py",
        "results = merging.no_results(self.results())",
        "results = self.results()",
    ),
    # State -------------------------------------------------------------------------------------
    Fault(
        "the first replica's values for all",
        "state/host_copies.py",
        "part.assign(buffer)",
        "part.assign(buffers[0])",
        ("guard", "run", "distribution"),
    ),
    Fault(
        "variables of steps that are not found",
        "state/model_state.py",
        "self._meet(kind, _keras.captured_variables(function, self._handles))",
        "pass",
        ("run", "guard"),
    ),
    Fault(
        "optimizers' slots are no state",
        "state/model_state.py",
        '"optimizer": dict(enumerate(model.optimizer.variables if model.optimizer else [])),',
        "",
        ("run", "guard"),
    ),
    # The prepared model ------------------------------------------------------------------------
    Fault(
        "the user's optimizer is replaced",
        "preparation/compiled_model.py",
        "_keras.set_compile_state(self.model, users)",
        "pass",
        ("test_trainer.py",),
    ),
    Fault(
        "a mistake that is not looked for",
        "preparation/prepare.py",
        "self.lint.once(kind, part.peek())",
        "pass",
    ),
    Fault(
        "scopes' variables that do not come back",
        "distribution/scoped.py",
        "_keras.hold(variable, outside, value)",
        "pass",
        ("test_trainer.py",),
    ),
)


def pattern_of(piece: str) -> re.Pattern:
    """Matches a piece of source, with any line breaks, and commas at their ends."""
    tokens = re.findall(r"\w+|[^\w\s]", piece)
    return re.compile(r"[\s,]*?".join(map(re.escape, tokens)) if tokens else "$^")


def planted(fault: Fault, text: str) -> str:
    """The source with the fault in it.

    Raises:
        ValueError: the piece is not there once.
    """
    found = list(pattern_of(fault.right).finditer(text))
    if len(found) != 1:
        raise ValueError(f"{fault.name}: its piece stands {len(found)} times in {fault.path}")
    begin, end = found[0].span()
    return text[:begin] + fault.wrong + text[end:]


def files_of(fault: Fault, near_only: bool) -> list[list[str]]:
    """Tests that are to find it, in the order in which they run."""
    folder = fault.path.split("/")[0]
    own = pathlib.Path(fault.path)
    mirrored = [f"tests/{own.parent}/test_{own.stem}.py", *(f"tests/{one}" for one in fault.tests)]
    first = [one for one in mirrored if (ROOT / one).exists()]
    near = [one for one in (f"tests/{folder}",) if (ROOT / one).exists()]
    stages = [first, near, [] if near_only else ["tests"]]
    return [stage for number, stage in enumerate(stages) if stage and stage not in stages[:number]]


def run(fault: Fault, tier: str, near_only: bool = False) -> tuple[str, str, float]:
    """Plants a fault and runs tests until one fails.

    Args:
        fault: what is planted.
        tier: ``"default"`` or ``"all"``.
        near_only: whether only the tests of its folder run, and those named with it.

    Returns:
        ``(tier that finds it, or "missed"; the test; seconds)``.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        place = pathlib.Path(directory)
        for name in ("kerastrain", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "README.rst"):
            shutil.copy(ROOT / name, place / name)
        module = place / "kerastrain" / fault.path
        module.write_text(planted(fault, module.read_text(encoding="utf-8")), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": directory, "TF_CPP_MIN_LOG_LEVEL": "3"}
        tiers = {"default": []} | ({"later": ["-m", "slow or process"]} if tier == "all" else {})
        for name, options in tiers.items():
            for files in files_of(fault, near_only):
                command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "--no-header"]
                command += ["-p", "no:cacheprovider", "-p", "no:randomly", *options, *files]
                command += ["--deselect", "tests/test_mutation.py", "--tb", "no"]
                try:
                    done = subprocess.run(
                        command, cwd=place, env=environment, capture_output=True, text=True,
                        timeout=SECONDS,
                    )  # fmt: skip
                except subprocess.TimeoutExpired:
                    return name, "hangs", time.monotonic() - begun
                if done.returncode not in (0, 5):
                    found = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
                    return name, (found or ["the run itself"])[0], time.monotonic() - begun
    return "missed", "", time.monotonic() - begun


def main() -> None:
    """Runs the faults, two at a time, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tier", choices=("default", "all"), default="default")
    parser.add_argument("--near", action="store_true", help="leave out the tests of other folders")
    parser.add_argument("--only", default="", help="those whose name or path has this in it")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    faults = [f for f in FAULTS if given.only in f.name or given.only in f.path]
    if given.list:
        print("\n".join(f"{fault.path:32} {fault.name}" for fault in faults))
        return
    counts: dict[str, int] = {}
    with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        for fault, (tier, test, seconds) in zip(
            faults, pool.map(lambda fault: run(fault, given.tier, given.near), faults), strict=True
        ):
            counts[tier] = counts.get(tier, 0) + 1
            print(f"{tier:8} {fault.path:32} {fault.name:48} {test} ({seconds:.0f} s)", flush=True)
    print(f"{len(faults)} faults: " + ", ".join(f"{n} {tier}" for tier, n in counts.items()))
    sys.exit("missed" in counts)


if __name__ == "__main__":
    main()
