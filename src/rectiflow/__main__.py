"""`python -m rectiflow`: the same program as `rectiflow`."""

import sys

from rectiflow.cli.main import main

sys.exit(main())
