"""What wvindex's speed and memory are, measured beside its peers: ``python -m benchmarks``."""
