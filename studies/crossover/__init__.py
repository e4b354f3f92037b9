"""Where speculation stops beating plain decoding, and what to serve on either side."""
