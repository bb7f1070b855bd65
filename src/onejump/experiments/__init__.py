"""The papers' experiments besides, one module each."""
