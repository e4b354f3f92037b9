"""What a pass costs: methods, operators, passes, prices, tables of steps."""
