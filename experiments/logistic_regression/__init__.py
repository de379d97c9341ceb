"""Bayesian logistic regression: a posterior's predictions into a bag of ten sigmoids."""
