"""The clips of a run, played beside their attention."""
