"""What several tests, benchmarks and docs/model_coverage.py share."""
