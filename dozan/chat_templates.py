"""The names that notebooks import from chat_templates: `from dozan.chat_templates import train_on_responses_only`."""

from __future__ import annotations

from dozan.compat.templates import (
    get_chat_template,
    standardize_data_formats,
    standardize_sharegpt,
    train_on_responses_only,
)

__all__ = ["get_chat_template", "standardize_data_formats", "standardize_sharegpt", "train_on_responses_only"]
