"""Engines: what runs the model. Each module but ``base`` and ``table`` imports one large library."""
