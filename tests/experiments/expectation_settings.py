"""Small settings of the study of posterior expectations, for its tests."""

from experiments.flags import resolve
from experiments.posterior_expectations import inputs
from experiments.posterior_expectations.settings import Settings
from kd import data

TINY = {
    "hidden_sizes": "8,8",
    "num_steps": 60,
    "burn_in": 20,
    "thin": 5,
    "test_thin": 4,
    "fine_tune_steps": 3,
}


def settings_of(given, preset="quick"):
    return resolve(Settings, preset, {name: str(value) for name, value in given.items()})


def loaded_digits():
    digits = data.load("digits")
    return inputs.Loaded(digits, digits.train_x, {})
