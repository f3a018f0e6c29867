"""``python -m leaderlease`` is ``leaderlease``."""

import sys

from leaderlease.cli import main

sys.exit(main())
