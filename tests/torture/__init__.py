"""Runs that are killed, damaged, poisoned and starved on purpose, and what becomes of them."""
