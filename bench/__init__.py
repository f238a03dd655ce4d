"""Benchmarks of ovn-docker beside its alternatives: ``make bench``. See docs/performance.md."""
