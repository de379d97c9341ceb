"""The study's figures: what each method's features find, and what each layer adds."""

import numpy as np

from experiments.feature_distillation.settings import LAST, Condition
from experiments.feature_distillation.tables import HEADINGS, NETWORKS, Found, title_of
from experiments.plotting import STYLE, plt, save
from experiments.run import Run

MERIT = "mAP by cosine, %"
LINES = {"teacher": "-", "aux_labels": ":", "aux": "--"}
COLOURS = {"none": "C0", "contrastive": "C1"}


def draw(run: Run, found: dict[str, list[Found]]) -> None:
    """Writes every figure into `figures/` of the workdir."""
    conditions = run.settings.conditions()
    # The last layer alone is a method; others are compared with it, in a figure of their own.
    methods = [one for one in conditions if one.layer in ("", LAST)]
    layers = [one for one in conditions if one.method == "layer"]
    with plt.rc_context(STYLE):
        if methods:
            save(_methods(run, methods, found), run, "methods.png")
        if layers:
            save(_layers(run, layers, found), run, "layers.png")


def _merits(found: dict[str, list[Found]], name: str) -> np.ndarray:
    return np.array([one.by_metric["cosine"]["map"] for one in found[name]])


def _error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def _methods(run: Run, conditions: list[Condition], found: dict[str, list[Found]]) -> plt.Figure:
    """Bars of mAP for every method, with one standard error; lines for the networks that teach."""
    kinds = list(dict.fromkeys(one._replace(supervision="") for one in conditions))
    figure, axis = plt.subplots(figsize=(6.4, 1.4 + 0.3 * len(kinds)), layout="constrained")
    places = np.arange(len(kinds))[::-1]
    height = 0.8 / len(run.settings.supervision)
    for index, supervision in enumerate(run.settings.supervision):
        merits = [_merits(found, one._replace(supervision=supervision).name) for one in kinds]
        axis.barh(
            places + 0.4 - height * (index + 0.5),
            [np.mean(one) for one in merits],
            height,
            xerr=[_error(one) for one in merits],
            color=COLOURS[supervision],
            label=HEADINGS[supervision] if len(run.settings.supervision) > 1 else None,
            error_kw={"elinewidth": 1},
        )
    for name, style in LINES.items():
        if name in found:
            value = float(np.mean(_merits(found, name)))
            axis.axvline(value, color="black", linestyle=style, linewidth=1, label=NETWORKS[name])
    axis.set_yticks(places, [title_of(one) for one in kinds])
    axis.set_xlabel(MERIT)
    axis.grid(axis="y", visible=False)
    axis.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


def _layers(run: Run, conditions: list[Condition], found: dict[str, list[Found]]) -> plt.Figure:
    """What matching each intermediate layer adds to matching the last alone."""
    settings = run.settings
    figure, axis = plt.subplots(figsize=(1.6 + 1.2 * len(settings.intermediate), 3.2))
    width = 0.7 / len(settings.supervision)
    for index, supervision in enumerate(settings.supervision):
        base = _merits(found, Condition(supervision, "layer", LAST).name)
        gains = [
            _merits(found, Condition(supervision, "layer", layer).name)
            for layer in settings.intermediate
        ]
        axis.bar(
            np.arange(len(gains)) + width * (index + 0.5) - 0.35,
            [np.mean(one) - np.mean(base) for one in gains],
            width,
            yerr=[np.hypot(_error(one), _error(base)) for one in gains],
            color=COLOURS[supervision],
            label=HEADINGS[supervision],
            error_kw={"elinewidth": 1},
        )
    axis.axhline(0, color="black", linewidth=1)
    axis.set_xticks(range(len(settings.intermediate)), settings.intermediate)
    axis.set_xlabel("layer matched to the auxiliary's, beside the last")
    axis.set_ylabel("gain over the last alone:\n" + MERIT)
    axis.grid(axis="x", visible=False)
    axis.set_axisbelow(True)
    if len(settings.supervision) > 1:
        axis.legend(fontsize=8)
    return figure
