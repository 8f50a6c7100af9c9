"""Searches for settings: `dozan.sweep(...)`, successive halving within a budget of minutes."""

from dozan.verb import callable_as

callable_as("dozan.sweep", "dozan.sweep.sweep")
