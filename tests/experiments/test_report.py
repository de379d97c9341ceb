"""What a run tells: rows, tables that fit 80 columns, progress on a terminal and elsewhere."""

import io
import itertools
import json

import numpy as np
import pytest

from experiments import report
from experiments.compress_ensemble import settings as study_settings
from experiments.compress_ensemble import tables
from experiments.compress_ensemble.settings import Settings
from experiments.flags import UserError
from experiments.report import Progress, Row
from experiments.workdir import MetricsLog
from kd.metrics import Estimate


def test_a_row_is_an_estimate_in_its_unit():
    made = report.row("student.accuracy", Estimate(0.975, 0.005, 3), "%", scale=100, paper=97.46)
    assert made == Row("student.accuracy", 97.5, 0.5, 3, "%", 97.46)
    assert report.row("a", Estimate(-0.5, 0.25, 1), "nats") == Row("a", -0.5, 0.25, 1, "nats", None)


def test_summary_is_what_the_contract_says():
    rows = [
        report.row("student.accuracy[ce]", Estimate(0.5, 0.1, 3), "%", scale=100, paper=55.0),
        Row("student.parameters", 12, None, 1, ""),
    ]
    summary = report.summary("toy", "quick", 12.345, rows)
    assert json.loads(json.dumps(summary)) == {
        "experiment": "toy",
        "preset": "quick",
        "seconds": 12.3,
        "rows": [
            {
                "name": "student.accuracy[ce]",
                "value": 50.0,
                "stderr": 10.0,
                "repeats": 3,
                "unit": "%",
                "paper": 55.0,
            },
            {
                "name": "student.parameters",
                "value": 12,
                "stderr": None,
                "repeats": 1,
                "unit": "",
                "paper": None,
            },
        ],
    }


def test_a_row_that_is_not_there_is_one_line(tmp_path):
    rows = report.RowsByName(
        report.summary("toy", "quick", 1.0, [Row("a", 1.0, None, 1, "")]), tmp_path
    )
    assert rows["a"]["value"] == 1.0 and rows.get("b") is None
    with pytest.raises(UserError, match=r"summary\.json is damaged \(no row b\); remove it, and"):
        rows["b"]


def test_plus_minus():
    assert report.pm({"value": 97.4567, "stderr": 0.126}, 2) == "97.46 ± 0.13"
    assert report.pm({"value": -0.1104, "stderr": None}, 3) == "-0.110"
    assert report.pm(None, 2) == "–"


def test_a_table_prints_every_cell(capsys):
    title = "own [/b].npz"  # Which is no markup.
    report.print_table(title, ("", "a", "b"), [["first", "1", "2.50"], ["second", "30", "–"]])
    out = capsys.readouterr().out
    assert out.startswith("own [/b].npz")
    assert max(map(len, out.splitlines())) <= 80
    cells = [
        [c.strip() for c in line.strip("│").split("│")] for line in out.splitlines() if "│" in line
    ]
    assert cells == [["first", "1", "2.50"], ["second", "30", "–"]]
    # Numbers stand on the right, text on the left.
    assert "│ first  │  1 │ 2.50 │" in out


def test_paths_stand_on_lines_of_their_own(capsys, tmp_path):
    report.print_end({"seconds": 59.4}, tmp_path, "the NADEs")
    assert capsys.readouterr().out.splitlines() == [
        "59 s. Look at the figures, and at the NADEs, in",
        str(tmp_path / "figures"),
        str(tmp_path / "student"),
    ]


# The study's table, for the longest names and the widest numbers there can be.


def full_summary(settings):
    """Rows for every condition, each figure as wide as it gets."""
    rows = [Row(f"data.{part}_examples", 1234567, None, 1, "") for part in ("train", "test")]

    def add(who, name, *, paper):
        widest = {"accuracy": (98.67, 12.34), "log_prob": (-12.345, 0.123), "ece": (99.9, 9.9)}
        for key, (value, stderr) in widest.items():
            rows.append(Row(f"{who}.{key}{name}", value, stderr, 5, "", paper))

    add("teacher", "", paper=98.67)
    fractions = dict.fromkeys(fraction for *_, fraction in settings.conditions())
    for fraction in fractions:
        add("direct", f"[{fraction:g}]" if len(fractions) > 1 else "", paper=94.43)
    several = len(settings.conditions()) > 1
    for loss, generator, fraction in settings.conditions():
        add("student", f"[{loss},{generator},{fraction:g}]" if several else "", paper=63.98)
    for who, scale in (("teacher", 1e3), ("student", 1)):
        for key in ("parameters", "flops", "latency[1]", "latency[256]"):
            rows.append(Row(f"{who}.{key}", 123456.789 * scale, None, 1, ""))
    return report.summary("compress_ensemble", "paper", 86399.0, rows)


def shown(capsys, tmp_path, settings):
    tables.show(full_summary(settings), settings, tmp_path)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        Settings(grid=True),
        Settings(train_fraction=(0.123456, 0.98765)),
        Settings(
            loss=study_settings.LOSSES,
            generator=study_settings.GENERATORS,
            train_fraction=(0.125,),
            dataset="a/" * 100 + "data.npz",
            num_members=1000,
        ),
        Settings(loss=("dse_projected",)),
    ],
    ids=["grid", "long fractions", "long path", "one condition"],
)
def test_the_studys_table_fits_80_columns(capsys, tmp_path, settings):
    out = shown(capsys, tmp_path, settings)
    lines = [line for line in out.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80
    # No figure is cut.
    assert "…" not in out
    num_models = 1 + len({f for *_, f in settings.conditions()}) + len(settings.conditions())
    assert out.count("98.67 ± 12.34") == num_models
    assert out.count("-12.345 ± 0.123") == num_models
    # The first column may be folded.
    names = "".join(line.split("│")[1] for line in out.splitlines() if "│" in line)
    for loss, generator, fraction in settings.conditions():
        assert f"{loss},{generator},{100 * fraction:g}%" in names.replace(" ", "")


def test_the_studys_table_by_value(capsys, tmp_path):
    """Teacher, direct, student; the gap is to the teacher, costs are ratios."""
    settings = Settings(loss=("ce",))
    summary = full_summary(settings)
    changed = {"student.accuracy": 8.17, "direct.accuracy": 99.92}
    for row in summary["rows"]:
        row["value"] = changed.get(row["name"], -0.5 if "log_prob" in row["name"] else row["value"])
        row["stderr"] = None if row["stderr"] is None else 0.25

    def table():
        tables.show(summary, settings, tmp_path)
        out = capsys.readouterr().out
        by_name, name = {}, ""
        for line in out.splitlines():
            if "│" in line:
                first, *others = (cell.strip() for cell in line.split("│")[1:-1])
                if any(others):
                    by_name[name := first] = others
                else:  # The name goes on.
                    by_name[name := f"{name} {first}"] = by_name.pop(name)
        return out, by_name

    out, by_name = table()
    assert by_name["teacher, 10 nets"][:2] == ["98.67 ± 0.25", "–"]
    assert by_name["direct, 10%"][:2] == ["99.92 ± 0.25", "+1.25"]
    ours = ["8.17 ± 0.25", "-90.50", "-0.500 ± 0.250", "99.9"]
    assert by_name["ce, dataset, 10%"] == [*ours, "63.98"]
    assert by_name["parameters"] == ["123,456,789", "123,457", "1,000 x"]
    assert by_name["latency, ms"] == ["123456789.00", "123456.79", "1,000 x"]
    assert "1,234,567 training and 1,234,567 test examples" in " ".join(out.split())
    assert str(tmp_path) in out and "86399 s" in out and "thesis" in out
    # A row whose students share a stream is marked, and the mark explained.
    assert "*" not in out
    for row in summary["rows"]:
        if row["name"].startswith("student."):
            row["repeats"] = 1
    out, by_name = table()
    assert by_name["ce, dataset, 10%*"] == [*ours, "63.98"] and "* The 5 students" in out
    # Where the thesis has no figure there is no column for it.
    for row in summary["rows"]:
        row["paper"] = None
    out, by_name = table()
    assert "thesis" not in out and by_name["ce, dataset, 10%*"] == ours


# Progress.


@pytest.fixture
def log(tmp_path):
    return MetricsLog(tmp_path / "metrics.csv", ["loss", "accuracy"])


def clock(monkeypatch, ticks):
    monkeypatch.setattr("experiments.report.time.monotonic", ticks.__next__)


def test_plain_lines_where_there_is_no_terminal(log, capsys, monkeypatch):
    """The last step always; else one when five seconds have passed since the line before."""
    # Construction at 0, then a row every two seconds.
    clock(monkeypatch, itertools.count(0, 2))
    with Progress("teacher", 60, log) as progress:
        for step in range(10, 61, 10):
            progress(step, {"loss": 1.0 / step, "accuracy": 50.0})
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines() == [
        "teacher                       30/60  loss 0.03333  accuracy 50",
        "teacher                       60/60  loss 0.01667  accuracy 50",
    ]
    assert [row["step"] for row in log.rows("teacher")] == [10, 20, 30, 40, 50, 60]


def test_a_phase_that_goes_on_says_from_where(log, capsys):
    for step in (4, 10):
        with Progress("teacher", 10, log) as progress:
            progress.goes_on(step)
    assert capsys.readouterr().out.splitlines() == [
        "teacher                        4/10  goes on from here",
        "teacher                       10/10  done before",
    ]
    assert log.rows("teacher") == []


def test_figures_of_replicas_are_averaged(log):
    with Progress("teacher", 2, log) as progress:
        progress(1, {"loss": np.array([1.0, 2.0, 6.0], np.float32), "accuracy": 7})
    assert log.rows("teacher") == [{"step": 1.0, "loss": 3.0, "accuracy": 7.0}]


def test_a_bar_on_a_terminal(log, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("teacher", 4, log) as progress:
        for step in (1, 2, 4):
            progress(step, {"loss": 0.125})
    assert capsys.readouterr().out == ""
    last = terminal.getvalue().replace("\n", "\r").rstrip("\r").split("\r")[-1]
    assert last.startswith("teacher: 100%") and "4/4" in last and "loss 0.125" in last
    assert all(len(frame) <= 80 for frame in terminal.getvalue().replace("\n", "\r").split("\r"))


def test_a_writer_gets_every_figure(log):
    calls = []

    class Writer:
        def add_scalar(self, *arguments):
            calls.append(arguments)

    with Progress("direct[0.1]", 2, log, Writer()) as progress:
        progress(1, {"loss": 0.5})
        progress(2, {"loss": 0.25, "accuracy": np.array([10.0, 30.0])})
    assert calls == [
        ("direct[0.1]/loss", 0.5, 1),
        ("direct[0.1]/loss", 0.25, 2),
        ("direct[0.1]/accuracy", 20.0, 2),
    ]


def test_counts_of_mishaps_are_shown_only_if_there_are_any(tmp_path, capsys):
    log = MetricsLog(tmp_path / "metrics.csv", ["loss", "kl_stderr", "num_empty"])
    with report.Progress("phase", 2, log) as progress:
        progress(1, {"loss": 1.0, "kl_stderr": 0.5, "num_empty": 0.0})
        progress(2, {"loss": 2.0, "kl_stderr": 0.5, "num_empty": 3.0})
    shown = capsys.readouterr().out
    assert "num_empty 3" in shown and "num_empty 0" not in shown and "kl_stderr" not in shown
    assert len(log.rows("phase")) == 2


def test_a_plain_line_has_what_fits(tmp_path, capsys):
    names = [f"{letter}.loss" for letter in "abcdefghijklmnopqrstuvwxyz"]
    with Progress("phase", 1, MetricsLog(tmp_path / "metrics.csv", names)) as progress:
        progress(1, dict.fromkeys(names, 1.5))
    line = capsys.readouterr().out.strip()
    assert "a.loss 1.5  b.loss 1.5" in line and line.endswith("  ...") and len(line) < 170
