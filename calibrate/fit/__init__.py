"""Constants from rows, and rows held out of the fit."""
