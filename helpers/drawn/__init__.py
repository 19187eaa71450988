"""What is drawn: faces, light, gestures and their planted truth."""
