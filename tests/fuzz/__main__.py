"""``python -m tests.fuzz`` from the root of the checkout: see `driver.main`."""

import os
import sys

_tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[0:0] = [os.path.dirname(_tests), _tests]  # the tables of tests/ too, as for pytest

from tests.fuzz.driver import main

sys.exit(main())
