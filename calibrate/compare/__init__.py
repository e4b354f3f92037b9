"""Why a measurement and its prediction differ."""
