"""Figures that take long are made once, and kept as soon as they are made."""

import json

import numpy as np
import pytest

from experiments.book import Book, has_value
from experiments.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
    made = Workdir(tmp_path / "run", experiment="toy", preset="quick", settings={})
    made.begin()
    yield made
    made.leave()


def unwanted():
    raise AssertionError("It was made before.")


def interrupted():
    raise KeyboardInterrupt


def test_what_is_in_the_file_is_not_made_again(workdir):
    first = Book(workdir, "estimates.json")
    assert first.keep("a", lambda: {"value": np.float32(1.5), "num": 3, "is_ok": True}) == {
        "value": 1.5,
        "num": 3,
        "is_ok": True,
    }
    with pytest.raises(KeyboardInterrupt):
        first.keep("b", interrupted)
    second = Book(workdir, "estimates.json")
    assert second.found == {}
    assert second.keep("a", unwanted) == first.found["a"]
    second.keep("b", lambda: {"value": 2.0})
    assert list(second.found) == ["a", "b"]
    assert json.loads((workdir.path / "estimates.json").read_text()) == second.found


def test_what_is_not_asked_for_yet_is_not_lost(workdir):
    book = Book(workdir, "estimates.json")
    for name in "abc":
        book.keep(name, lambda: {"value": 1.0})
    again = Book(workdir, "estimates.json")
    again.keep("d", lambda: {"value": 1.0})
    assert set(json.loads((workdir.path / "estimates.json").read_text())) == set("abcd")
    assert list(again.found) == ["d"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "3", "[" * 100_000, '{"a": 3}', '{"a": []}', '{"a": {}}', "\xff"),
        *('{"a": {"value": "1"}}', '{"a": {"value": NaN}}', '{"a": {"value": Infinity}}'),
    ],
    ids=lambda text: text[:20] or "empty",
)
def test_what_is_damaged_is_made_again(workdir, content):
    (workdir.path / "estimates.json").write_bytes(content.encode("latin-1"))
    book = Book(workdir, "estimates.json")
    assert book.keep("a", lambda: {"value": 1.0}) == {"value": 1.0}
    assert json.loads((workdir.path / "estimates.json").read_text()) == {"a": {"value": 1.0}}


def is_positive(name, figures):
    assert name == "a"
    return has_value(name, figures) and figures["value"] > 0


def test_a_study_says_what_it_believes(workdir):
    Book(workdir, "estimates.json").keep("a", lambda: {"value": -1.0})
    made = Book(workdir, "estimates.json", is_sound=is_positive)
    assert made.keep("a", lambda: {"value": 1.0}) == {"value": 1.0}


def test_what_differs_from_what_is_known_better_is_forgotten(workdir):
    Book(workdir, "estimates.json").keep("a", lambda: {"value": 1.0})
    book = Book(workdir, "estimates.json")
    book.forget("a", unless={"value": 1.0})
    assert book.keep("a", unwanted) == {"value": 1.0}
    book = Book(workdir, "estimates.json")
    book.forget("a", unless={"value": 2.0})
    assert book.keep("a", lambda: {"value": 2.0}) == {"value": 2.0}
