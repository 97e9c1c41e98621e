"""How the library is verified: proof, chaos and benchmarks, and the harness that they share."""
