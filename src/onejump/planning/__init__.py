"""What is known of a study before it runs: its sources and its costs."""
