"""Generalised posterior expectation distillation: a chain over weights into small networks."""
