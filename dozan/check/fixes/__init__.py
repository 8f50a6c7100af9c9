"""Repairs of one row: each says its code, the path and what stood there before; what is not certain is left alone."""
