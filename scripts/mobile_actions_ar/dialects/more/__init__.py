"""More training frames, one module a dialect: written without looking at the test halves."""

from scripts.mobile_actions_ar.dialects.more import egyptian, gulf, levantine, maghrebi, msa

__all__ = ["egyptian", "gulf", "levantine", "maghrebi", "msa"]
