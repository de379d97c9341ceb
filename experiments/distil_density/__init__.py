"""Distilling densities known up to a constant (Papamakarios 2015, section 4.1)."""
