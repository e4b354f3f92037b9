"""Tables, charts, pages and files that every study writes."""
