"""``python -m mrl_retrieval.cli``."""

import sys

from . import main

sys.exit(main())
