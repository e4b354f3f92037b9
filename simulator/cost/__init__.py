"""THE PRICE OF A CYCLE: methods list passes, passes list ops, ops have prices; steps are tables."""
