"""Encoder families, one file each. Nothing here is imported before its encoder is asked for."""
