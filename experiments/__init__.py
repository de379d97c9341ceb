"""Studies: one package a study, run as `python -m experiments.<name>`."""
