"""Models, their rivals and controls, and how they are fitted."""
