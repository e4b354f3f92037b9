"""One file a tool: benchmark files and request traces become observations."""
