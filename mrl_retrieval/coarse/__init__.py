"""The coarse index of the embedded store: quantised prefixes in lists, scanned whole or in part."""

from .lists import CodeLists

__all__ = ["CodeLists"]
