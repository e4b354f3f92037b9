"""Networks of one rank: the target, the DFlash drafter, draft heads."""
