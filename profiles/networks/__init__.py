"""Layer sizes of whole networks, read from Hugging Face configs."""
