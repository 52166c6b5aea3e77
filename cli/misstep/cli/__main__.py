"""``python -m misstep.cli`` is the `misstep` command."""

import sys

from misstep.cli.main import main

sys.exit(main())
