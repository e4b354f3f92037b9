"""Published accept lengths, and what they depend on."""
