"""The face in a clip: found, followed, cropped."""
