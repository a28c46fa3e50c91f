"""The two-stage search beside the libraries a user would pick instead, in the manner of ann-benchmarks."""
