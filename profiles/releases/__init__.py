"""Releases of the engine: sheets, what they hold, how builds are matched, what servers share."""
