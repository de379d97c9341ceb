"""experiments.plotting: words from outside in a figure."""

import warnings

import numpy as np

from experiments.plotting import draw_matrices, draw_rows, draw_teacher, plt


def test_words_that_are_no_formulas(tmp_path):
    """Dollars, control characters, other scripts, and words longer than the picture is wide."""
    words = ["$\\frac{", "$a$", "tab\there", "a" * 300, "映画"]
    figure = draw_matrices({"teacher": np.eye(5)}, columns=1, label="cosine", names=words)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(tmp_path / "words.png")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["$\\frac{", "$a$", "tab?here"] and len(labels[3]) == 16
    plt.close(figure)


def test_a_likelihood_of_0_is_drawn(tmp_path):
    """Beside others, on an axis of logarithms, without a warning."""
    figure, axes = plt.subplots(1, 2)
    for axis, values in zip(axes, ([np.zeros(3)], [np.zeros(3), np.ones(2)]), strict=True):
        axis.set_xscale("log")
        draw_rows(axis, values, ["C0", "C1"][: len(values)])
        draw_teacher(axis, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "zero.png")
    assert all(axis.get_xlim()[0] <= 1e-7 for axis in axes)
    plt.close(figure)
