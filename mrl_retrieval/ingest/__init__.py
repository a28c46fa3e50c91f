"""Files to rows: find them, read them, split them, and keep a collection in step with them.

``files`` finds what to read, ``reading`` decodes it, ``records`` parses it, ``state`` knows what the collection holds
already, ``owners`` whose that is, and ``sync`` writes the difference. Everything needed to tell what changed is in the
rows' own metadata, so it works on every backend and from any machine.
"""

from .files import FileSource, Scope, find_files
from .records import RecordOptions
from .sync import BOOKKEEPING, Counts, SyncOptions, sync

__all__ = ["BOOKKEEPING", "Counts", "FileSource", "RecordOptions", "Scope", "SyncOptions", "find_files", "sync"]
