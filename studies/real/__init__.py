"""From options to measurements and runs on this machine; all of it needs torch."""
