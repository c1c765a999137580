"""`check_metric` and `metric_laws`: what they run, skip, refuse and print."""

import re
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain.distribution import merging
from kerastrain.errors import ArgumentError
from kerastrain.errors import MetricError
from kerastrain.testing import arguments
from kerastrain.testing import binary_classification
from kerastrain.testing import check_metric
from kerastrain.testing import LAWS
from kerastrain.testing import metric_laws
from kerastrain.testing import MetricLawError
from kerastrain.testing import multiclass_classification
from kerastrain.testing import regression
from kerastrain.testing import Stream
from tests.support import tiers
from tests.testing.mutants import LastBatch
from tests.testing.mutants import LONG_ROWS
from tests.testing.mutants import MeanOfBatchMeans
from tests.testing.mutants import MeanOfRoots
from tests.testing.mutants import MUTANTS
from tests.testing.mutants import SumOfBatchMeans
from tests.testing.right_metrics import absolute_error
from tests.testing.right_metrics import MeanAbsolute

test_one_line = metric_laws(
    lambda: MeanAbsolute(name="mine"), inputs=regression(), reference=absolute_error,
    laws=["state", "reference"], skip={"state_in_variables": "an example of a skipped law"},
    profile="ci",
)  # fmt: skip

test_known_to_fail = metric_laws(
    MeanOfBatchMeans, inputs=regression(), laws="split_invariance", profile="ci",
    expected_failures={"split_invariance": "a mean of batch means, on purpose"},
)  # fmt: skip


def run_python(code, **env):
    """Runs a program in a process of its own, and returns what it printed."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=900,
        env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


class TestDeclarations:
    """What is declared is checked, or refused."""

    @pytest.mark.parametrize("inputs, declared, reason", (
        (arguments(x=st.integers(0, 9)), {"shift_invariant": True}, "no argument is a value"),
        (binary_classification(), {"shift_invariant": True}, "no argument is a value"),
        (arguments(x=st.integers(0, 9)), {"scale_power": 1.0}, "no argument is a value"),
        (binary_classification(), {"scale_power": 0}, "no argument is a value"),
    ))  # fmt: skip
    @pytest.mark.parametrize("laws", (None, "numbers", "split_invariance"))
    def test_no_law_can_use_it(self, inputs, declared, reason, laws):
        """Whichever laws are asked for: the message names the declaration and the reason."""
        ((name, value),) = declared.items()
        with pytest.raises(ArgumentError, match=f"`{name}={value}`.*{reason}"):
            check_metric(keras.metrics.Mean, inputs=inputs, laws=laws, seed=0, **declared)

    @pytest.mark.parametrize("declared, message", (
        ({"bounds": (1, 0)}, "`bounds`.*\\(1, 0\\)"),
        ({"bounds": (-np.inf, np.inf)}, "`bounds`.*finite"),
        ({"bounds": (np.nan, 1)}, "`bounds`.*nan"),
        ({"tolerance": np.nan}, "`tolerance`.*nan"),
        ({"tolerance": np.inf}, "`tolerance`.*inf"),
        ({"tolerance": -1.0}, "`tolerance`.*-1.0"),
        ({"scale_power": np.nan}, "`scale_power`.*nan"),
        ({"laws": []}, "`laws` names no law"),
        ({"expected_failures": {"mask_with_weights": "why"}}, "does not apply.*no time steps"),
        ({"expected_failures": {"empty_batch": "why"}, "skip": {"empty_batch": "why"}},
         "`expected_failures` names 'empty_batch', which `skip` leaves out"),
    ))  # fmt: skip
    def test_nothing_can_break_it(self, declared, message):
        """Nor is anything declared that every metric fulfils, or that is not looked at."""
        given = {"laws": ["within_bounds", "mask_with_weights"], **declared}
        with pytest.raises(ArgumentError, match=message):
            check_metric(MeanAbsolute, inputs=regression(), seed=0, **given)

    @pytest.mark.slow
    def test_a_test_file_is_told_too(self):
        """`metric_laws` refuses it in each of its tests."""
        test = metric_laws(keras.metrics.Mean, inputs=arguments(x=st.booleans()), scale_power=1)
        with pytest.raises(ArgumentError, match="`scale_power=1`.*no argument is a value"):
            test(LAWS["split_invariance"])

    def test_what_can_be_checked_is(self):
        """A mean is no shift-invariant metric, and is found; floats are values."""
        inputs = arguments(values=st.integers(-32, 32).map(lambda k: k / 8))
        with pytest.raises(MetricLawError) as caught:
            check_metric(keras.metrics.Mean, inputs=inputs, shift_invariant=True, seed=0,
                         laws="shift_behaviour")  # fmt: skip
        assert "shift_behaviour" == caught.value.law
        check_metric(keras.metrics.Mean, inputs=inputs, scale_power=1, seed=0,
                     laws="scale_behaviour")  # fmt: skip


@pytest.mark.slow
def test_many_rows_are_bounded():
    """However long a row is, a batch of many rows holds so many numbers at most."""
    sizes = []

    class Watched(keras.metrics.Mean):
        def update_state(self, y_true, y_pred, sample_weight=None):
            sizes.append(int(np.size(y_true)) + int(np.size(y_pred)))
            super().update_state(keras.ops.cast(y_true, "float32") - y_pred)

    check_metric(Watched, inputs=LONG_ROWS, laws="many_rows", seed=0, profile="ci")
    assert max(sizes) <= 2 * 12 * 800
    sizes.clear()
    check_metric(Watched, inputs=regression(2), laws="many_rows", seed=0, profile="ci")
    assert 4 * 24 * 4 <= max(sizes) <= 8 * 24 * 4


class TestMessage:
    """The failure message is the product."""

    def test_whole(self):
        """It has the law, the smallest rows as code, both results, cause, fix and replay."""
        with pytest.raises(MetricLawError) as caught:
            check_metric(MeanOfBatchMeans, inputs=regression(), laws="split_invariance", seed=0,
                         profile="ci")  # fmt: skip
        expected = textwrap.dedent("""\
            MeanOfBatchMeans breaks the law split_invariance:
            Any cut of the rows into batches gives the same result.

                a = factory()
                a.update_state(
                    np.array([[0.0], [0.0], [0.0]], 'float32'),
                    np.array([[0.0], [0.0], [0.125]], 'float32'),
                )
        """)
        message = str(caught.value)
        assert message.startswith(expected.split("np.array")[0])
        for part in (
            "b.update_state(", "Expected  0.00", "Found     0.0", "all rows at once",
            "Likely cause: the result is a mean of batch means: weigh each batch by its rows.",
            "Fix: Add up sums and counts over the rows",
            'Replay: check_metric(..., laws=["split_invariance"], seed=0, profile="ci")',
            "MeanOfBatchMeans: 1 broken (seed 0)",
        ):  # fmt: skip
            assert part in message

    def test_program_can_be_pasted(self):
        """The program, run as it stands, gives the results that the message shows."""
        with pytest.raises(MetricLawError) as caught:
            check_metric(MeanOfBatchMeans, inputs=regression(), laws="split_invariance", seed=0,
                         profile="ci")  # fmt: skip
        message = str(caught.value)
        program = textwrap.dedent("\n".join(x for x in message.split("\n") if x.startswith("    ")))
        names = {"np": np, "factory": MeanOfBatchMeans}
        exec(program, names)
        shown = {kind: float(message.split(kind)[1].split()[0]) for kind in ("Expected", "Found")}
        assert shown["Expected"] == pytest.approx(float(names["a"].result()), abs=1e-6)
        assert shown["Found"] == pytest.approx(float(names["b"].result()), abs=1e-6)
        assert shown["Expected"] != shown["Found"]

    @pytest.mark.parametrize("name", (
        "OneMinusLabel", "WeightsUncast", tiers.slow("MaximumSummed"),
        tiers.slow("ClassesBroadcast"), "WeightsSquared",
    ))  # fmt: skip
    def test_programs_of_other_laws_can_be_pasted(self, name):
        """They run, or raise what the message shows."""
        mutant = MUTANTS[name]
        with pytest.raises(MetricLawError) as caught:
            check_metric(mutant.factory, inputs=mutant.inputs, laws=mutant.law, seed=0,
                         profile="ci")  # fmt: skip
        message = str(caught.value)
        program = textwrap.dedent("\n".join(x for x in message.split("\n") if x.startswith("    ")))
        names = {"np": np, "tf": tf, "merging": merging, "factory": mutant.factory}
        if "Expected  no error" not in message:
            exec(program, names)
            return
        with pytest.raises(Exception) as raised:
            exec(program, names)
        assert type(raised.value).__name__ in message

    @pytest.mark.parametrize("factory, cause", (
        (LastBatch, "last batch only"),
        tiers.slow(SumOfBatchMeans, "results of batches are added"),
        tiers.slow(MeanOfRoots, "no mean over rows"),
    ))  # fmt: skip
    def test_cause_of_split(self, factory, cause):
        """The cause is guessed from what the batches give alone."""
        with pytest.raises(MetricLawError, match=cause):
            check_metric(
                factory, inputs=regression(), laws="split_invariance", seed=1, profile="ci"
            )

    def test_rule_is_named(self):
        """Where another merge rule would be right, the fix names it."""
        with pytest.raises(MetricLawError, match=r"merge_rules = \{'largest': 'max'\}"):
            check_metric(MUTANTS["MaximumSummed"].factory, inputs=regression(), seed=0,
                         laws="merge_equals_one_pass", profile="ci")  # fmt: skip

    def test_own_error_is_the_cause(self):
        """An error of the metric's own code is named, and chained."""

        class Broken(keras.metrics.Mean):
            def update_state(self, y_true, y_pred, sample_weight=None):
                raise KeyError("heads")

        with pytest.raises(MetricLawError, match="KeyError: 'heads'") as caught:
            check_metric(Broken, inputs=regression(), laws="accepts_stream", seed=0)
        assert isinstance(caught.value.__cause__, KeyError)

    def test_few_rows_of_a_law_that_compiles(self):
        """A law that compiles is shown with few rows too."""
        with pytest.raises(MetricLawError) as caught:
            check_metric(MUTANTS["MaximumOfReplicas"].factory, inputs=regression(), seed=0,
                         laws="replicas_equal_one_device")  # fmt: skip
        rows = [len(re.findall(r"\[-?\d+\.\d+\]", x)) for x in str(caught.value).split("\n")]
        assert 1 <= max(rows) <= 4


class TestRuns:
    def test_report(self):
        """Every law is in the report, with a reason where it did not run."""
        report = check_metric(
            MeanAbsolute, inputs=regression(), laws=["stream", "within_bounds", "order_invariance"],
            skip={"order_invariance": "the order is the point"}, seed=3,
        )  # fmt: skip
        statuses = {o.law: (o.status, o.reason) for o in report.outcomes}
        assert ("skipped", "the order is the point") == statuses["order_invariance"]
        assert ("not applicable", "no `bounds` are declared") == statuses["within_bounds"]
        assert ("passed", "") == statuses["split_invariance"]
        assert [] == report.broken
        assert "skipped        order_invariance: the order is the point" in str(report)
        assert "(seed 3)" in str(report)

    def test_expected_failure_is_strict(self):
        """A law that is declared broken may be so; if it holds, that is an error."""
        known = {"split_invariance": "known"}
        report = check_metric(MeanOfBatchMeans, inputs=regression(), laws="split_invariance",
                              expected_failures=known, seed=0)  # fmt: skip
        assert ["expected"] == [o.status for o in report.outcomes]
        with pytest.raises(
            MetricLawError, match="declared to break split_invariance .known., and does not"
        ):
            check_metric(MeanAbsolute, inputs=regression(), laws="split_invariance",
                         expected_failures=known, seed=0)  # fmt: skip

    def test_seed_replays(self):
        """The same seed draws the same examples; the profile `ci` needs none."""

        def drawn(**how):
            seen = []

            class Watching(MeanAbsolute):
                def update_state(self, y_true, y_pred, sample_weight=None):
                    seen.append(np.asarray(y_pred).tolist())
                    super().update_state(y_true, y_pred, sample_weight)

            check_metric(Watching, inputs=regression(), laws="accepts_stream", **how)
            return seen

        assert drawn(seed=5) == drawn(seed=5) != drawn(seed=6)
        assert drawn(profile="ci") == drawn(profile="ci")
        assert drawn(profile="dev") != drawn(profile="dev")

    def test_all_laws_run_after_a_failure(self):
        """One call shows every broken law."""
        with pytest.raises(MetricLawError) as caught:
            check_metric(LastBatch, inputs=regression(), seed=0, profile="ci",
                         laws=["split_invariance", "weighted_split_invariance"])  # fmt: skip
        for law in ("split_invariance", "weighted_split_invariance"):
            assert f"breaks the law {law}" in str(caught.value)

    @pytest.mark.slow
    def test_inputs_that_are_not_taken(self):
        """A metric that takes no such rows breaks one law, not all of them."""
        with pytest.raises(MetricLawError) as caught:
            check_metric(keras.metrics.F1Score, inputs=arguments(y_true=st.integers(0, 1),
                                                                 y_pred=st.integers(0, 1)), seed=0)  # fmt: skip
        assert 1 == str(caught.value).count("breaks the law")
        assert "the metric does not take these inputs" in str(caught.value)

    @pytest.mark.slow
    def test_strict_laws_run_on_request(self):
        """A mean in float32 breaks the strict law of very many rows only."""
        factory, inputs = MeanAbsolute, regression()
        laws = ["state", "stream", "weights", "configuration", "numbers"]
        assert [] == check_metric(factory, inputs=inputs, laws=laws, seed=0, profile="ci").broken
        with pytest.raises(MetricLawError, match="2\\^24"):
            check_metric(factory, inputs=inputs, laws="no_saturation", seed=0)


class TestPytest:
    """`metric_laws` under pytest, in a project of its own."""

    def collected(self, pytester_like, *options):
        path = pytester_like / "test_metrics.py"
        path.write_text(
            textwrap.dedent("""
            import os
            import keras, pytest
            from kerastrain.testing import metric_laws, regression
            from tests.testing.right_metrics import MeanAbsolute
            from tests.testing.mutants import MeanOfBatchMeans

            MADE = []
            def factory():
                MADE.append(1)
                return MeanAbsolute()

            def test_nothing_was_made_while_collecting(): assert not MADE
            test_sound = pytest.mark.fast(metric_laws(factory, inputs=regression(), profile="dev",
                                          skip={"empty_batch": "never empty"}))
            test_wrong = metric_laws(MeanOfBatchMeans, inputs=regression(), profile="ci")
        """)
        )
        (pytester_like / "pytest.ini").write_text("[pytest]\nmarkers = fast: quick\n")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs", str(path), *options],
            capture_output=True, text=True, timeout=900, cwd=pytester_like,
            env={**__import__("os").environ, "PYTHONPATH": __file__.split("/tests/")[0]},
        )  # fmt: skip
        return done.stdout

    @pytest.mark.process
    def test_ids(self, tmp_path):
        """Each law is a test of its own, named by the law."""
        listed = self.collected(tmp_path, "--collect-only")
        for name in (n for n, law in LAWS.items() if not law.strict):
            assert f"test_sound[{name}]" in listed
        assert "no_saturation]" not in listed

    @pytest.mark.process
    def test_selection_and_reasons(self, tmp_path):
        """`-k` and markers choose; skipped laws say why; broken ones fail with the message."""
        out = self.collected(
            tmp_path, "-k", "nothing or [split_inv or sound and (empty_batch or within_bounds)"
        )
        assert "never empty" in out and "no `bounds` are declared" in out
        assert "MeanOfBatchMeans breaks the law split_invariance" in out
        assert "1 failed, " in out and " 2 skipped" in out
        only = self.collected(tmp_path, "-m", "fast", "-k", "split_invariance and not weighted")
        assert "1 passed" in only


class TestNothingPassesUnchecked:
    """What cannot be checked is said, not passed over."""

    @pytest.mark.parametrize("reference, answer", (
        (lambda y_true, y_pred: abs(np.reshape(y_true, (1,)) - y_pred)[0], "ValueError: cannot reshape"),
        tiers.slow(lambda y_true, y_pred: np.float64("nan"), "NaN"),
    ))  # fmt: skip
    def test_reference_without_an_answer(self, reference, answer):
        """A reference that answers for a single row only, or never, is refused."""
        with pytest.raises(ArgumentError, match=f"`reference` gave no result.*{answer}"):
            check_metric(MeanAbsolute, inputs=regression(), reference=reference, laws="reference",
                         seed=0)  # fmt: skip

    def test_reference_that_fails(self):
        """Another error of the reference is shown, and the other laws run."""
        with pytest.raises(
            MetricLawError, match="TypeError.*\n\nLikely cause: the reference"
        ) as caught:
            check_metric(MeanAbsolute, inputs=regression(), seed=0,
                         reference=lambda y_true, y_pred: len(3),
                         laws=["equals_reference", "order_invariance"])  # fmt: skip
        assert "passed         order_invariance" in str(caught.value)

    def test_inputs_without_a_stream(self):
        """Inputs that give no rows are refused."""
        with pytest.raises(ArgumentError, match="`inputs` gave no stream"):
            check_metric(MeanAbsolute, inputs=regression().filter(lambda stream: False), seed=0)

    def test_factory_that_fails(self):
        """A constructor that wants arguments is an error of the call, not a broken law."""
        with pytest.raises(MetricError, match="raised TypeError.*lambda: MyMetric"):
            check_metric(keras.metrics.MeanIoU, inputs=regression(), seed=0)

    @pytest.mark.slow
    def test_variables_of_the_first_batch(self):
        """A metric that makes variables late breaks laws, and no law crashes."""
        with pytest.raises(MetricLawError, match="variables_exist_early"):
            check_metric(MUTANTS["LateVariable"].factory, inputs=binary_classification(),
                         laws=["state", "numbers", "no_saturation"], seed=0)  # fmt: skip

    @pytest.mark.parametrize("factory, inputs", (
        tiers.slow(keras.metrics.MeanSquaredError, regression()),
        tiers.slow(keras.metrics.BinaryAccuracy, binary_classification()),
        tiers.slow(
            keras.metrics.CategoricalAccuracy, multiclass_classification(labels="one_hot")
        ),
        tiers.slow(
            lambda: keras.metrics.SparseTopKCategoricalAccuracy(2), multiclass_classification(4)
        ),
    ))  # fmt: skip
    def test_metrics_of_keras(self, factory, inputs):
        """Sound metrics of Keras pass all laws but the strict ones (and float32 scores only)."""
        laws = ["state", "stream", "weights", "configuration"]
        assert [] == check_metric(factory, inputs=inputs, laws=laws, seed=0).broken


def test_reset_by_keras():
    """Where Keras's own reset assigns 0, the fix is not to leave it to Keras."""
    with pytest.raises(
        MetricLawError, match="assigns 0 to 'least', not the value of its initializer"
    ):
        check_metric(MUTANTS["MinimumResetToZero"].factory, inputs=regression(), seed=0,
                     laws="reset_equals_fresh")  # fmt: skip


@pytest.mark.slow
def test_no_dangerous_rules():
    """A rule that fits one cut by chance is not recommended."""
    with pytest.raises(MetricLawError) as caught:
        check_metric(MUTANTS["RunningMean"].factory, inputs=regression(), seed=0, profile="ci",
                     laws="merge_equals_one_pass")  # fmt: skip
    assert "Keep sums and counts as state" in str(caught.value)


class TestArguments:
    @pytest.mark.parametrize("bad, message", (
        ({"laws": "splits"}, "names 'splits', which is no law.*split_invariance"),
        ({"skip": {"split_invariance": ""}}, "needs a reason for 'split_invariance'"),
        ({"skip": {"nothing": "why"}}, "names 'nothing'"),
        ({"expected_failures": {"split_invariance": None}}, "needs a reason"),
        ({"profile": "quick"}, "one of dev, ci, thorough.*'quick'"),
        ({"inputs": 3}, "`inputs` must be a strategy.*3"),
        ({"inputs": st.integers()}, "strategy of kerastrain.testing.Stream"),
    ))  # fmt: skip
    def test_refused(self, bad, message):
        """What cannot work is refused with the value and the fix."""
        with pytest.raises((ArgumentError, MetricError), match=message):
            check_metric(MeanAbsolute, **{"inputs": regression(), "laws": "state", **bad})

    def test_factory(self):
        """An object is no factory, and a factory makes metrics."""
        with pytest.raises(ArgumentError, match="must be a function"):
            check_metric(3, inputs=regression())
        with pytest.raises(MetricError, match="It returned: None"):
            check_metric(lambda: None, inputs=regression())
        with pytest.raises(MetricError, match="is a metric, not what makes one"):
            check_metric(keras.metrics.Mean(), inputs=regression())
        with pytest.raises(MetricError, match="missing 1 required.*Pass a function without arg"):
            check_metric(lambda values: None, inputs=regression())

    def test_a_constructor_that_fails(self):
        """Its own error is shown, without advice about what it does not lack."""

        class Broken(keras.metrics.Metric):
            def __init__(self):
                super().__init__()
                raise ValueError("no initializer")

        with pytest.raises(MetricError, match=r"raised ValueError: no initializer\.$"):
            check_metric(Broken, inputs=regression())

    def test_reasons_are_wanted(self):
        """A list of laws to skip has none."""
        with pytest.raises(ArgumentError, match="`skip` must be a dict {law: reason}"):
            check_metric(MeanAbsolute, inputs=regression(), skip=["columns_agree"])


def test_inputs_of_the_users_own():
    """A strategy of streams may be built by hand."""
    stream = st.builds(
        lambda rows: Stream({"values": np.array(rows, "float32")}),
        st.lists(st.integers(0, 4), min_size=1, max_size=5),
    )
    laws = ["split_invariance", "reset_equals_fresh", "zero_weight_is_absence"]
    assert [] == check_metric(keras.metrics.Mean, inputs=stream, laws=laws, seed=0).broken


@pytest.mark.process
def test_import_starts_no_device():
    """Importing the kit, and naming all that it has, leaves TensorFlow's devices to be chosen."""
    run_python("""
        import kerastrain.testing as kit
        made = [getattr(kit, name) for name in kit.__all__]
        test = kit.metric_laws(lambda: 1 / 0, inputs=kit.regression())
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 5)
        assert len(tf.config.list_logical_devices("CPU")) == 5
    """)


@pytest.mark.process
def test_replicas_in_a_process_of_their_own():
    """Where TensorFlow runs with one device, replicas run in another process, and are judged."""
    out = run_python("""
        import keras, tensorflow as tf
        tf.constant(1.0)    # started, with one device
        from kerastrain.testing import MetricLawError, check_metric, regression
        from tests.testing.mutants import MaximumSummed

        class Mine(keras.metrics.MeanSquaredError):
            pass

        law = "replicas_equal_one_device"
        print(check_metric(lambda: Mine(), inputs=regression(), laws=law, seed=0, profile="ci"))
        assert len(tf.config.list_logical_devices("CPU")) == 1
        try:
            check_metric(MaximumSummed, inputs=regression(), laws=law, seed=0, profile="ci")
        except MetricLawError as error:
            print(error)
    """, PYTHONPATH=__file__.split("/tests/")[0])  # fmt: skip
    assert "Mine: 1 passed" in out
    assert "on 2 replicas" in out and "the states of replicas are summed" in out
