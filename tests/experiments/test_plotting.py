"""experiments.plotting: words from outside in a figure."""

import warnings

import numpy as np

from experiments.plotting import draw_matrices, plt


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
