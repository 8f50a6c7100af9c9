"""Shapes of rows by name, in the order in which they are tried; one module a family."""
