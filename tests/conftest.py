"""Settings of the whole suite."""

from hypothesis import settings

# A test must not fail because the machine is busy.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
