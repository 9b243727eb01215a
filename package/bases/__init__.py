"""Base models on this machine: fetched from the Hub or from package registries, checked, and listed."""
