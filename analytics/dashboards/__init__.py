"""The Dash apps, a module each; importing one registers it."""

NAMES = ("health",)
