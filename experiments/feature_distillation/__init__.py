"""Shares what a teacher's layers know, for finding images of the same class."""
