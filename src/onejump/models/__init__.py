"""Any transformer as levels, blocks and head: loading, checking, extracting activations."""
