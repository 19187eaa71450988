"""The extraction engine: clips beside a network that never waits."""
