"""A local page to drag: every state is an address, and every figure a function of it."""
