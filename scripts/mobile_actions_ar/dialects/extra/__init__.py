"""Still more training frames, and far more requests that no tool serves, one module a dialect: their writers saw no
test row and no test frame."""

from scripts.mobile_actions_ar.dialects.extra import egyptian, gulf, levantine, maghrebi, msa

__all__ = ["egyptian", "gulf", "levantine", "maghrebi", "msa"]
