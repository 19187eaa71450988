"""What the networks see, and what their features are worth."""
