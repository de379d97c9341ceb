"""Bayesian density estimation: a posterior's predictive density into one small mixture."""
