"""The study's figures of merit: KL divergences from the Monte Carlo prediction."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import report
from experiments.density_estimation.settings import ROUTES, Settings
from experiments.report import Row, mean_row

if TYPE_CHECKING:
    from experiments.density_estimation.study import Result, Sweep

STUDENTS = ("batch", "online")
MOST_R_HAT = 1.01
ROUTE_NAMES = {
    "one": "one chain",
    "thinned": "one chain, thinned",
    "parallel": "a chain for each draw",
}


def rows(
    settings: Settings,
    results: "dict[int, Result]",
    sweep: "Sweep | None",
) -> list[Row]:
    """All final figures of a run; errors are over data sets."""
    made = []
    for num_points, result in results.items():
        for name in (*STUDENTS, "truth"):
            made.append(mean_row(f"kl.{name}[{num_points}]", result.kl[name], "nats"))
        gap = result.kl["online"] - result.kl["batch"]
        made.append(mean_row(f"kl.online_less_batch[{num_points}]", gap, "nats"))
        repeats = len(result.r_hat)
        made.append(Row(f"r_hat[{num_points}]", float(result.r_hat.max()), None, repeats, ""))
        made.append(Row(f"ess[{num_points}]", float(result.ess.min()), None, repeats, "samples"))
        for name in ("batch", "online"):
            row = Row(f"num_empty.{name}[{num_points}]", result.mishaps[name], None, repeats, "")
            made.append(row)
        share = result.mishaps["not_converged"]
        made.append(Row(f"not_converged.batch[{num_points}]", share, None, repeats, ""))
    return made + (_sweep_rows(sweep) if sweep else [])


def _sweep_rows(sweep: "Sweep") -> list[Row]:
    """Of every route, and its difference from one chain's, in pairs of the same data set."""
    repeats = len(sweep.r_hat)
    made = [
        Row("r_hat.sweep", float(sweep.r_hat.max()), None, repeats, ""),
        Row("ess.sweep", float(sweep.ess.min()), None, repeats, "samples"),
    ]
    for (route, size), kl in sweep.kl.items():
        made.append(mean_row(f"kl.sweep[{route},{size}]", kl, "nats"))
        num_empty = sweep.num_empty[route, size]
        made.append(Row(f"num_empty.sweep[{route},{size}]", num_empty, None, repeats, ""))
        if route != "one":
            gap = kl - sweep.kl["one", size]
            made.append(mean_row(f"kl.sweep_less_one[{route},{size}]", gap, "nats"))
    return made


def show(summary: dict[str, Any], settings: Settings, workdir: Path) -> None:
    """Prints the tables at the end of a run."""
    by_name = report.RowsByName(summary, workdir)
    lines = []
    for num in settings.num_points:
        kl = [by_name[f"kl.{name}[{num}]"] for name in ("batch", "online", "truth")]
        r_hat = by_name[f"r_hat[{num}]"]["value"]
        mark = " *" if not r_hat < MOST_R_HAT else ""
        lines.append([f"{num:,}", *(report.pm(row, 4) for row in kl), f"{r_hat:.3f}{mark}"])
    header = ["points", "batch EM", "online EM", "the true density", "R-hat"]
    report.print_table("KL(Monte Carlo ‖ density), nats", header, lines)
    is_apart = any(line[-1].endswith("*") for line in lines)
    if settings.batch_sizes:
        lines = [
            [f"{size:,}"] + [report.pm(by_name[f"kl.sweep[{route},{size}]"], 3) for route in ROUTES]
            for size in settings.batch_sizes
        ]
        title = f"KL(Monte Carlo ‖ student), nats: online EM, {settings.sweep_points:,} points"
        header = ["draws a step", *(ROUTE_NAMES[route] for route in ROUTES)]
        report.print_table(title, header, lines)
        worst = max(
            by_name[f"num_empty.sweep[{route},{size}]"]["value"]
            for route in ROUTES
            for size in settings.batch_sizes
        )
        if worst:
            print(f"Up to {worst:.1f} of {settings.num_components} components end without a share.")
        ess, r_hat = by_name["ess.sweep"]["value"], by_name["r_hat.sweep"]["value"]
        print(f"The chains there: {ess:,.0f} effective samples at least, R-hat {r_hat:.3f}.")
    print(f"Monte Carlo: the mean density over {settings.num_samples:,} samples of the posterior.")
    _show_mishaps(by_name, settings)
    if settings.num_repeats > 1:
        print(f"± is one standard error over {settings.num_repeats} data sets; R-hat the largest.")
    if is_apart:
        print("* The chains do not agree: more samples, or a longer burn-in, are needed.")
    report.print_end(summary, workdir)


def _show_mishaps(by_name: report.RowsByName, settings: Settings) -> None:
    """Components that EM left without a share, and fits cut short, where there are any."""
    for num in settings.num_points:
        batch, online = (by_name[f"num_empty.{n}[{num}]"]["value"] for n in ("batch", "online"))
        if batch or online:
            print(
                f"{num:,} points: of {settings.num_components} components batch EM leaves "
                f"{batch:.1f} without a share, online EM {online:.1f} (means over data sets)."
            )
        if share := by_name[f"not_converged.batch[{num}]"]["value"]:
            print(f"{num:,} points: {100 * share:.0f} % of the batch fits had not converged.")
