"""Compressing an ensemble into one small network (Papamakarios 2015, chapter 2)."""
