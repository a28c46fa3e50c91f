"""Pairs of encoders of the same length, one that makes a collection and one that it is opened with."""
