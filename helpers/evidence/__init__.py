"""Whether what a model attends to is real."""
