"""Settings of the whole suite."""

import os

from hypothesis import settings

# A test must not fail because the machine is busy; on CI the same examples are tried every time.
settings.register_profile("steady", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("steady")
