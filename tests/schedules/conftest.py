"""Property tests draw the same examples every time, and are not judged by the clock."""

from hypothesis import settings

settings.register_profile("stepwell", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("stepwell")
