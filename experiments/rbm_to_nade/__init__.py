"""Distils an intractable RBM into a NADE, and estimates its partition function."""
