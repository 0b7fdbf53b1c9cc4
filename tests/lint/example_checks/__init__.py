"""Checks for the tests of the surface: small, each with another certainty and another kind of fix."""
