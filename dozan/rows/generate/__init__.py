"""Rows for anyone's tools: sentence patterns and values of a lexicon, filled, joined, and the calls they ask for."""
