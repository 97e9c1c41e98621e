"""What proof, chaos, benchmarks and tests share."""
