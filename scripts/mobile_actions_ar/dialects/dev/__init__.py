"""The development side: frames and values that choices are made with, written without seeing training or test ones."""

from scripts.mobile_actions_ar.dialects.dev import egyptian, gulf, levantine, maghrebi, msa, values

__all__ = ["egyptian", "gulf", "levantine", "maghrebi", "msa", "values"]
