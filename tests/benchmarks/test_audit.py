"""The audit of `keras.metrics`: nothing batch is skipped, verdicts are sound, each defect shows itself."""

import json
import time
import warnings

import keras
import pytest

from benchmarks import keras_metric_defects
from benchmarks import metrics_audit
from benchmarks import metrics_verdicts
from benchmarks.metrics_audit import Finding
from benchmarks.metrics_audit import ROWS
from benchmarks.metrics_verdicts import VERDICTS
from kerastrain.testing import LAWS

pytestmark = pytest.mark.skipif(
    not keras.__version__.startswith("3.15."), reason="the audit is of keras.metrics 3.15"
)


def finding(law="no_saturation", status="broken", row=ROWS[0], message=""):
    """What a law says of the first row."""
    return Finding(row.name, row.metric, law, LAWS[law].group, status, message)


def test_every_public_class_is_audited():
    """A class that a new Keras brings is missed here."""
    audited = {row.metric for row in ROWS} | set(metrics_audit.ABSTRACT)
    assert sorted(audited) == metrics_audit.public_classes()


def test_names_of_rows_differ():
    """A line of the table, and a verdict, says which row it is of."""
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_can_be_made(row):
    """The options are those of the constructor."""
    assert type(row.factory()).__name__ == row.metric


def test_verdicts_speak_of_what_there_is():
    """Their keys are rows, classes or all; laws; and defects have a repro."""
    names = {row.name for row in ROWS} | {row.metric for row in ROWS} | {"*"}
    for (metric, law), verdict in VERDICTS.items():
        assert metric in names
        assert law in LAWS or (law == "*" and metric in {row.name for row in ROWS})
        assert verdict.kind in metrics_verdicts.KINDS
        assert verdict.reason
        assert bool(verdict.repro) == (verdict.kind == "defect")
        assert not verdict.repro or verdict.repro in keras_metric_defects.DEFECTS


@pytest.mark.parametrize("name", keras_metric_defects.DEFECTS)
def test_each_defect_shows_itself(name):
    """What Keras gives is not what is right, and right is a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of what goes wrong.
        gives, right = keras_metric_defects.DEFECTS[name]()
    assert keras_metric_defects.differ(gives, right)
    assert "Error" not in str(right)
    assert ".py" in keras_metric_defects.DEFECTS[name].__doc__


def test_defects_are_printed(capsys):
    """A line for each, with both numbers."""
    pairs = keras_metric_defects.main(["--only", "ignored_class"])
    text = capsys.readouterr().out
    assert ["ignored_class_is_counted"] == list(pairs)
    for value in pairs["ignored_class_is_counted"]:
        assert keras_metric_defects.shown(value) in text


@pytest.mark.slow
def test_a_small_audit_runs(tmp_path, capsys):
    """Two laws of the rows of one metric: the table, the verdict and the smallest example."""
    file = tmp_path / "findings.json"
    laws = ["--laws", "split_invariance", "flat_rows_agree"]
    found = metrics_audit.main(
        ["--only", "MeanSquaredError", *laws, "--processes", "1", "--examples", "--json", str(file)]
    )
    text = capsys.readouterr().out
    rows = {one.row for one in found}
    assert {row.name for row in ROWS if "MeanSquaredError" in row.name} == rows
    assert {"split_invariance", "flat_rows_agree"} == {one.law for one in found}
    (broken,) = (f for f in found if f.row == "MeanSquaredError" and f.status == "broken")
    assert "flat_rows_agree" == broken.law
    assert "defect" == metrics_audit.judged(broken)
    assert broken.message in text
    assert "a = keras.metrics.MeanSquaredError()" in broken.message
    saved = json.loads(file.read_text(encoding="utf-8"))["findings"]
    assert [one.law for one in found] == [one["law"] for one in saved]


def test_a_row_ends_in_time(monkeypatch):
    """Laws that are not reached, or not ended, within the row's seconds are not run."""
    calls = []

    def lasts(*_, **__):
        calls.append(1)
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(metrics_audit, "check_metric", lasts)
    found = metrics_audit.audit(ROWS[0], ["state"], seconds=0.1)
    assert {"not run"} == {one.status for one in found}
    assert 1 == len(calls) < len(found)


def test_violations_without_a_verdict_end_the_run(monkeypatch, capsys):
    """The code is 1, and the number of them is printed."""
    monkeypatch.setattr(metrics_audit, "VERDICTS", {})
    monkeypatch.setattr(metrics_audit, "run", lambda rows, **options: [finding()])
    with pytest.raises(SystemExit, match="1"):
        metrics_audit.main([])
    streams = capsys.readouterr()
    assert "unjudged" in streams.out
    assert "1 violations are unjudged, 0 verdicts mended, 0 laws" in streams.err


def test_verdicts_of_laws_that_hold_are_mended(monkeypatch):
    """Only where the law ran on all rows that the verdict speaks of, and was broken on none."""
    verdict = metrics_verdicts.Verdict("documented limit", "a reason")
    monkeypatch.setattr(metrics_audit, "VERDICTS", {("*", "no_saturation"): verdict})
    passed = [finding(status="passed", row=row) for row in ROWS]
    assert [("*", "no_saturation")] == metrics_audit.mended(passed)
    assert [] == metrics_audit.mended(passed[1:])
    assert [] == metrics_audit.mended([*passed[1:], finding()])


def test_the_closest_verdict_speaks(monkeypatch):
    """That of the row before that of the class before that of all."""
    verdicts = {
        (key, "no_saturation"): metrics_verdicts.Verdict("defect", key, "repro")
        for key in (ROWS[1].name, ROWS[0].metric, "*")
    }
    monkeypatch.setattr(metrics_audit, "VERDICTS", verdicts)
    other = next(row for row in ROWS if row.metric != ROWS[0].metric)
    rows = (ROWS[1], ROWS[0], other)
    assert ROWS[0].metric == ROWS[1].metric
    assert [ROWS[1].name, ROWS[0].metric, "*"] == [finding(row=row).verdict.reason for row in rows]


def test_the_rst_table_is_one():
    """Columns begin where the rules say."""
    lines = metrics_audit.rst_table([finding(), finding("flat_rows_agree", "passed")]).split("\n")
    rule, head, below, row, end = lines
    assert rule == below == end
    assert {"=", " "} == set(rule)
    assert row.split()[:3] == [ROWS[0].metric, "1", "2"]
    assert head.startswith("``keras.metrics``")


def test_a_pattern_or_a_law_that_is_unknown_is_refused(capsys):
    """The message names it."""
    for arguments, text in (
        (["--only", "no such row"], "no row's name holds 'no such row'"),
        (["--laws", "no_such_law"], "'no_such_law' is no law and no family of laws"),
    ):
        with pytest.raises(SystemExit):
            metrics_audit.main(arguments)
        assert text in capsys.readouterr().err
